import { deflateSync } from "node:zlib";
import { expect, test } from "vitest";
import { readPayload, unpackText, widenHalves } from "../src/data/payload";

/** The layout of docs/page-data.md: length, header, arrays at multiples of 8. */
function pack(header: object, body: Uint8Array): ArrayBuffer {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = Math.ceil((4 + text.length) / 8) * 8;
  const bytes = new Uint8Array(start + body.length).fill(0x20);
  new DataView(bytes.buffer).setUint32(0, start - 4, true);
  bytes.set(text, 4);
  bytes.set(body, start);
  return bytes.buffer;
}

const HEADER_LENGTH = 400;

function header(change: object = {}) {
  const place = { dtype: "i32", shape: [2], offset: 0 };
  const make = (offset: number) => ({
    page: 1,
    title: "t",
    comparison: null,
    traces: [{ arrays: { token_ids: { ...place, offset }, phase: null } }],
    ...change,
  });
  const text = JSON.stringify(make(HEADER_LENGTH));
  return make(Math.ceil((4 + text.length) / 8) * 8);
}

test("arrays are read where the header says", () => {
  const payload = readPayload(pack(header(), new Uint8Array(Int32Array.of(-7, 9).buffer)));
  expect([...(payload.traces[0]?.arrays.token_ids?.data ?? [])]).toEqual([-7, 9]);
  expect(payload.traces[0]?.arrays.phase).toBeUndefined();
});

test("another version is refused by name", () => {
  expect(() => readPayload(pack(header({ page: 2 }), new Uint8Array(8)))).toThrow(
    /page \(=2\) must be 1; write the page/,
  );
});

test("an unknown dtype is refused", () => {
  const traces = [{ arrays: { token_ids: { dtype: "c8", shape: [1], offset: 0 } } }];
  expect(() => readPayload(pack(header({ traces }), new Uint8Array(8)))).toThrow(/dtype \(=c8\)/);
});

test("base64 and zlib are undone", async () => {
  const bytes = Uint8Array.of(1, 2, 3, 250);
  const text = `\n${deflateSync(bytes).toString("base64")}\n`;
  expect(new Uint8Array(await unpackText(text))).toEqual(bytes);
});

test("half precision: signs, subnormals, the largest, infinity and NaN", () => {
  const bits = Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x3555);
  const wide = [...widenHalves(bits)];
  expect(wide.slice(0, 6)).toEqual([1, -2, 2 ** -24, 65504, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]);
  expect(wide[6]).toBeNaN();
  expect(wide[7]).toBe(0.333251953125);
});
