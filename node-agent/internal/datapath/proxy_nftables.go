package datapath

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// proxyTableName of the nftables table that belongs to the proxies.
const proxyTableName = "fairlead_proxies"

// writeProxyTable makes the table, or with on false removes it:
//
//	table inet fairlead_proxies {
//	  chain output { type filter hook output priority mangle;
//	    meta mark & 0xf00 == 0xb00 ct mark set 0x200
//	  }
//	  chain prerouting { type filter hook prerouting priority mangle;
//	    ct direction reply ct mark & 0xf00 == 0x200 meta mark set 0x200
//	  }
//	}
//
// Answers to a connection that a proxy opened for a pod, and that netfilter masquerades, get the pod's address back before
// they are routed; without the mark the stack would forward them to the pod and find that they have a socket, which it drops.
// The programs see no such packet: it came in with the node's address.
func writeProxyTable(ns *namespace, on bool) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.file.Fd())))
	if err != nil {
		return fmt.Errorf("talking to nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: proxyTableName}
	// Adding makes the deletion succeed where there is none.
	c.AddTable(table)
	c.DelTable(table)
	if on {
		c.AddTable(table)
		chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Table: table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityMangle})
		}
		number := binaryutil.NativeEndian.PutUint32
		masked := func(load expr.Any, value uint32) []expr.Any {
			return []expr.Any{
				load,
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: number(markMask), Xor: number(0)},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: number(value)},
				&expr.Immediate{Register: 1, Data: number(markToProxy)},
			}
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain("output", nftables.ChainHookOutput),
			Exprs: append(masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, MarkFromEgressProxy),
				&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true})})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain("prerouting", nftables.ChainHookPrerouting),
			Exprs: append(append([]expr.Any{
				&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
			}, masked(&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, markToProxy)...),
				&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true})})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing the proxies' nftables table: %w", err)
	}
	return nil
}
