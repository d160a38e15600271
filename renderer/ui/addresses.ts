/** A pod or node of the inventory, as far as its addresses go. */
interface Addressed {
  readonly address: string;
  readonly moreAddresses?: readonly string[] | undefined;
}

/** All addresses of a pod or node, the preferred one first; none of what has none yet. */
export function addressesOf(one: Addressed | undefined): readonly string[] {
  return one && one.address !== '' ? [one.address, ...(one.moreAddresses ?? [])] : [];
}
