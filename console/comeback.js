// A new socket for the peer of a resume token: when to try, and the first message and its answer. docs/PROTOCOL.md has
// the recipe.

const TRY_AFTER_MS = [0, 300, 600, 1200, 2400, 5000];
const OPEN_MAX_MS = 5_000;

/** How long before attempt number `n`, from 0: not all clients of a server that came back at one moment. */
export const waitBefore = (n) => TRY_AFTER_MS[Math.min(n, TRY_AFTER_MS.length - 1)] * (1 + Math.random() / 2);

/** The server will not take this peer up any more: only joining anew is left. */
export class Gone extends Error {
  name = 'Gone';
}

/** Resolves with [the socket, the data of `resumed`]; what was missed comes right after it. */
export async function comeBack(url, token, received) {
  const socket = new WebSocket(url);
  let late;
  try {
    return await new Promise((resolve, reject) => {
      late = setTimeout(() => reject(new Error('The server does not answer.')), OPEN_MAX_MS);
      socket.onopen = () => socket.send(JSON.stringify({ type: 'resume', data: { token, received } }));
      socket.onclose = () => reject(new Error('The server cannot be reached.'));
      socket.onmessage = ({ data: text }) => {
        const { type, data } = JSON.parse(text);
        if (type === 'resumed') resolve([socket, data]);
        else if (data.code === 'unauthorized' || data.code === 'expired') reject(new Gone(data.message));
        else reject(new Error(data.message));
        // The next messages wait for whoever takes the socket.
        socket.onmessage = null;
      };
    });
  } catch (error) {
    socket.onclose = null;
    socket.close();
    throw error;
  } finally {
    clearTimeout(late);
  }
}
