// What the pages' own keys ask of an event first.

/** Without the keys that make it the browser's or the system's. */
export const plain = (event) => !event.ctrlKey && !event.metaKey && !event.altKey;

/** Where a character is text. A box to tick takes none, and keeps the focus for a moment after its dialog has closed. */
export const typing = (event) =>
  event.target instanceof Element && event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
