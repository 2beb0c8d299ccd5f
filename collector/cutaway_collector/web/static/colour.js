// The map's colours: cividis, from dark (small) to bright (large). Equal steps look equal, also to eyes that tell no red from green.

const STOPS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"].map((hex) =>
  [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

/** 256 colours as little-endian RGBA words, ready for a Uint32Array over ImageData. */
export const LUT = Uint32Array.from({ length: 256 }, (_, index) => {
  const position = (index / 255) * (STOPS.length - 1);
  const from = Math.min(STOPS.length - 2, Math.floor(position));
  const [r, g, b] = [0, 1, 2].map((c) => Math.round(STOPS[from][c] + (STOPS[from + 1][c] - STOPS[from][c]) * (position - from)));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
});

/** Draws the ramp itself, 256 pixels wide. */
export function ramp(canvas) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  new Uint32Array(image.data.buffer).set(LUT);
  context.putImageData(image, 0, 0);
}
