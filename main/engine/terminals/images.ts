/** Images that are known to hold a shell and tools, for nodes that can pull. */
const wellKnown = ['nicolaka/netshoot:v0.14', 'busybox:1.37', 'alpine:3.22'] as const;

/** Names of images made for looking around, the most useful first. */
const kinds = [
  /netshoot/,
  /(^|[/-])(debug|toolbox|tools|network-multitool)/,
  /busybox/,
  /alpine/,
  /(debian|ubuntu|fedora)/,
];

const rank = (name: string) => {
  const found = kinds.findIndex((kind) => kind.test(name));
  return found < 0 ? kinds.length : found;
};

/**
 * Images to debug with, the best first: those that the node holds already need no registry, so they come before the
 * well-known ones. `held` is the node's own list, each image with all its names.
 */
export function debugImages(
  held: readonly (readonly string[])[],
): readonly { readonly name: string; readonly present: boolean }[] {
  // A name with a digest says the same as the tag beside it, and cannot be read.
  const names = held.flatMap((all) => all.filter((name) => !name.includes('@')).slice(0, 1));
  const present = names
    .filter((name) => rank(name) < kinds.length)
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
    .map((name) => ({ name, present: true }));
  const without = (name: string) => name.replace(/^docker\.io\/(library\/)?/, '');
  return [
    ...present,
    ...wellKnown
      .filter((name) => !present.some((other) => without(other.name) === name))
      .map((name) => ({ name, present: false })),
  ];
}

const host = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d+)?$/i;
const part = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$/;

/** Why a text is no reference to an image; undefined when it is one. */
export function badImage(reference: string): string | undefined {
  const [, name = '', tag, digest] = /^([^@]*?)(?::([^/:@]*))?(?:@(.*))?$/.exec(reference) ?? [];
  if (reference === '') return 'No image is named.';
  if (/\s/.test(reference)) return 'The name of an image has no spaces.';
  const [first = '', ...rest] = name.split('/');
  const isHost = rest.length > 0 && (/[.:]/.test(first) || first === 'localhost');
  if (isHost && !host.test(first)) return `“${first}” is not the name of a registry.`;
  const parts = isHost ? rest : [first, ...rest];
  const wrong = parts.find((one) => !part.test(one));
  if (wrong !== undefined)
    return `“${wrong}” cannot stand in the name of an image: lower-case letters, digits, . _ - only.`;
  if (tag !== undefined && !/^\w[\w.-]{0,127}$/.test(tag)) return `“${tag}” is not a tag.`;
  if (digest !== undefined && !/^sha256:[0-9a-f]{64}$/.test(digest)) return `“${digest}” is not a digest.`;
  return undefined;
}
