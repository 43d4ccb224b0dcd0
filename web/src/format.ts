/** Numbers as people read them. */

import { format } from "d3-format";

export const formatCount = format(",d");
/** A mean of counts: one decimal, unless it is whole. */
export const formatMean = format(",.1~f");

const two = format(".2f");
const three = format(".3f");
const tiny = format(".2~e");

/** A load or a ratio: "2.31 ×". */
export function formatTimes(value: number | null): string {
  return value === null ? "unknown" : `${two(value)} ×`;
}

/** The same in a small place: "2.3×". */
export function formatLift(value: number): string {
  return `${format(".1f")(value)}×`;
}

/** A fraction as a percentage, with the digits that its distance from 0 and 100 % needs: never rounded to either. */
export function formatPercent(fraction: number): string {
  const percent = fraction * 100;
  const nearest = Math.min(Math.abs(percent), Math.abs(100 - percent));
  if (nearest === 0) return `${percent.toFixed(0)} %`;
  const digits = nearest >= 10 ? 0 : nearest >= 1 ? 1 : Math.min(6, 1 + Math.ceil(-Math.log10(nearest)));
  return `${format(`.${digits}~f`)(percent)} %`;
}

/** A score, a weight, a margin: three decimals, or powers of ten where those would show nothing. */
export function formatScore(value: number | null): string {
  if (value === null) return "not recorded";
  if (value === Number.NEGATIVE_INFINITY) return "masked";
  if (value === Number.POSITIVE_INFINITY) return "∞";
  return value !== 0 && Math.abs(value) < 0.001 ? tiny(value) : three(value);
}

const UNITS = ["bytes", "KB", "MB", "GB", "TB", "PB"];

/** Bytes in powers of 1000. */
export function formatBytes(bytes: number): string {
  return formatScaled(bytes, UNITS);
}

/** A large number, in three digits: "46.7 billion". */
export function formatCountInWords(count: number): string {
  return formatScaled(count, ["", "thousand", "million", "billion", "trillion"]).trim();
}

function formatScaled(value: number, units: readonly string[]): string {
  const power = Math.min(units.length - 1, value < 1000 ? 0 : Math.floor(Math.log10(value) / 3));
  return `${format(power ? ".3~r" : ",d")(value / 1000 ** power)} ${units[power]}`;
}

/** "1 expert", "2 experts". */
export function formatNumberOf(count: number, singular: string, plural = `${singular}s`): string {
  return `${formatCount(count)} ${count === 1 ? singular : plural}`;
}

/** "3, 8 and 12". */
export function formatList(items: readonly (string | number)[]): string {
  if (items.length < 2) return items.join("");
  return `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}`;
}
