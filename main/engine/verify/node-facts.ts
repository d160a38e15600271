/** What `fairlead-agent facts` prints. */
export interface PrintedFacts {
  readonly kernel: string;
  readonly interfaces: readonly {
    readonly name: string;
    readonly kind: string;
    readonly mtu: number;
    readonly up: boolean;
    readonly mac?: string;
    readonly addresses: readonly string[];
    readonly peer?: boolean;
  }[];
  readonly cards: readonly {
    readonly interface: string;
    readonly driver: string;
    readonly version: string;
    readonly firmware: string;
    readonly bus: string;
    readonly xdp: string;
  }[];
  readonly rules: readonly PrintedRule[];
  readonly noTrack: readonly PrintedRule[];
  readonly serviceChains: { readonly nftables: number; readonly legacy: number };
  readonly configuration?: string;
  readonly problems?: readonly string[];
}

export interface PrintedRule {
  readonly table: string;
  readonly chain: string;
  readonly text: string;
  readonly owner: string;
}
