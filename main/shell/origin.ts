/** The one origin of the desktop application: a scheme of our own, so that no file and no server is ever it. */
export const scheme = 'app';
export const origin = `${scheme}://console`;
export const startAddress = `${origin}/`;

/** Name of the message that carries the engine's port, in both directions and on the page. */
export const enginePortChannel = 'fairlead:engine-port';

/** Whether an address is the console's own page. */
export function isOwn(address: string): boolean {
  return URL.canParse(address) && address.startsWith(`${origin}/`);
}

const documentation = new Set(['docs.cilium.io', 'kubernetes.io', 'docs.kernel.org', 'fairlead.dev']);

/** Whether a link may be handed to the user's browser: documentation over https, nothing else. */
export function mayOpenOutside(address: string): boolean {
  if (!URL.canParse(address)) return false;
  const url = new URL(address);
  return (
    url.protocol === 'https:' &&
    url.username === '' &&
    url.password === '' &&
    url.port === '' &&
    documentation.has(url.hostname)
  );
}
