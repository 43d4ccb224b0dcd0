/** Token strings made visible. They are whatever the text was: blank, invisible, or hostile. */

const MARKS: Readonly<Record<string, string>> = { "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };

/** Control and format characters and half pairs: they show nothing, or turn the text around them. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u00a0]/gu;

const LONGEST = 60;

/** What a chip shows: as it is, but for what could not be seen. */
export function showToken(text: string | null, id: number | null): string {
  if (text === null) return id === null ? "·" : `#${id}`;
  if (text === "") return "∅";
  const visible = text.replace(INVISIBLE, (c) => MARKS[c] ?? `‹${(c.codePointAt(0) ?? 0).toString(16).toUpperCase()}›`);
  const characters = visible.length > LONGEST ? [...visible] : null;
  const short = characters && characters.length > LONGEST ? `${characters.slice(0, LONGEST).join("")}…` : visible;
  return /^ +$/.test(short) ? short.replaceAll(" ", "␣") : short;
}

/** The same inside a sentence: in quotation marks, without the space that joins it to the word before. */
export function quoteToken(text: string | null, id: number | null): string {
  return `“${showToken(text, id).trim()}”`;
}

/** Indices of the tokens that contain a text, or begin one that runs over several tokens; case is ignored. */
export function findTokens(strings: readonly (string | null)[], wanted: string): number[] {
  if (!wanted) return [];
  const starts: number[] = [];
  let text = "";
  for (const string of strings) {
    starts.push(text.length);
    text += (string ?? "").toLowerCase();
  }
  const found: number[] = [];
  let token = 0;
  for (let at = text.indexOf(wanted.toLowerCase()); at >= 0; at = text.indexOf(wanted.toLowerCase(), at + 1)) {
    while (token + 1 < starts.length && (starts[token + 1] as number) <= at) token++;
    if (found[found.length - 1] !== token) found.push(token);
  }
  return found;
}
