// The token in this page's address, if whoever opened it was sent here with one. It goes into no other address, and it is
// the server that believes it or not: here it only says what to show.

export const tokenGiven = () => new URLSearchParams(location.search).get('auth');

/** What the token says of who brings it: `{ sub, name, grants }`; null without one, or with one that nobody can read. */
export function claimsGiven() {
  try {
    const base64 = tokenGiven().split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims.sub === 'string' ? claims : null;
  } catch {
    return null;
  }
}
