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

/** Left for the next page of this tab, which takes it away. */
export function leave(key, value) {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    // forbidden or full
  }
}

export function take(key) {
  try {
    const found = sessionStorage.getItem(key);
    sessionStorage.removeItem(key);
    return found;
  } catch {
    return null;
  }
}
