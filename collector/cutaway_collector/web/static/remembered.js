// What this browser remembers of a visitor's choices. Where it may not, nothing is remembered and nothing breaks.

export function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function store(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // forbidden or full
  }
}
