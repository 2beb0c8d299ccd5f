// The map's colours: viridis, from dark (narrow attention) to bright (wide). Equal steps look equal, also without red or green.

const STOPS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"].map((hex) =>
  [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

/** 256 colours as little-endian RGBA words, ready for a Uint32Array over ImageData. */
export const LUT = Uint32Array.from({ length: 256 }, (_, index) => {
  const position = (index / 255) * (STOPS.length - 1);
  const from = Math.min(STOPS.length - 2, Math.floor(position));
  const [r, g, b] = [0, 1, 2].map((c) => Math.round(STOPS[from][c] + (STOPS[from + 1][c] - STOPS[from][c]) * (position - from)));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
});

/** The 2nd and 98th percentile of the finite values: outliers take the end colours instead of greying out the rest. */
export function robustRange(values) {
  const sorted = Float32Array.from(values.filter(Number.isFinite)).sort();
  if (!sorted.length) return [0, 0];
  const pick = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return [pick(0.02), pick(0.98)];
}
