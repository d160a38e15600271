package datapath

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tableName of the only nftables table that is ours.
const tableName = "fairlead"

func (k *kernel) nft() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(k.namespace.file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("talking to nftables: %w", err)
	}
	return c, nil
}

// ensureMasquerade writes the whole table in one transaction:
//
//	table inet fairlead {
//	  set nodes { type ipv4_addr; }                        # native routing: they reach pods as they are
//	  chain postrouting { type nat hook postrouting priority srcnat;
//	    ip saddr PODCIDR ip daddr PODCIDR accept
//	    ip saddr PODCIDR ip daddr NATIVECIDR accept
//	    ip saddr PODCIDR ip daddr @nodes accept            # native routing only
//	    ip saddr PODCIDR oifname DEVICE masquerade         # for each device
//	  }
//	}
//
// In tunnel mode other nodes' addresses are masqueraded too, since the wire has no route back to a pod.
func (k *kernel) ensureMasquerade(devices []netlink.Link) error {
	c, err := k.nft()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	// Nodes that an earlier run knew stay until this one knows better.
	elements := k.nodeElements()
	if old, err := c.GetSetElements(&nftables.Set{Table: table, Name: "nodes", KeyType: nftables.TypeIPAddr}); err == nil {
		for _, e := range old {
			if !net.IP(e.Key).Equal(net.IP(k.config.NodeAddress.Unmap().AsSlice())) {
				elements = append(elements, nftables.SetElement{Key: e.Key})
			}
		}
	}
	// Adding makes the deletion succeed where there is none.
	c.AddTable(table)
	c.DelTable(table)
	if k.config.Masquerade && k.config.PodCIDR(false).IsValid() {
		c.AddTable(table)
		nodes := &nftables.Set{Table: table, Name: "nodes", KeyType: nftables.TypeIPAddr}
		if err := c.AddSet(nodes, elements); err != nil {
			return fmt.Errorf("adding the set of nodes: %w", err)
		}
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		rule := func(parts ...[]expr.Any) {
			all := matchAddress(true, k.config.PodCIDR(false))
			for _, p := range parts {
				all = append(all, p...)
			}
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
		}
		accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
		rule(matchAddress(false, k.config.PodCIDR(false)), accept)
		if k.config.NativeRoutingCIDR.IsValid() && k.config.NativeRoutingCIDR.Addr().Is4() {
			rule(matchAddress(false, k.config.NativeRoutingCIDR), accept)
		}
		if k.config.Routing == RoutingNative {
			rule([]expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
				&expr.Lookup{SourceRegister: 1, SetName: nodes.Name, SetID: nodes.ID},
			}, accept)
		}
		for _, d := range devices {
			rule([]expr.Any{
				&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: interfaceName(d.Attrs().Name)},
			}, []expr.Any{&expr.Masq{}})
		}
	}
	if err := c.Flush(); err != nil {
		return &Problem{
			Code: "nftables.failed", What: "The masquerading rules cannot be written.", Why: "Pods' packets that leave the cluster need them, and the kernel's nftables refused.",
			Fix: "Load the modules nf_tables, nft_masq and nf_nat, or turn masquerading off.", Cause: err,
		}
	}
	return nil
}

func matchAddress(source bool, p netip.Prefix) []expr.Any {
	offset := uint32(16)
	if source {
		offset = 12
	}
	network, mask := p.Masked().Addr().As4(), net.CIDRMask(p.Bits(), 32)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: network[:]},
	}
}

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func (k *kernel) nodeElements() []nftables.SetElement {
	out := []nftables.SetElement{{Key: net.IP(k.config.NodeAddress.Unmap().AsSlice())}}
	for _, n := range k.nodes {
		if a := n.Address.Unmap(); a.Is4() && a != k.config.NodeAddress.Unmap() {
			out = append(out, nftables.SetElement{Key: net.IP(a.AsSlice())})
		}
	}
	return out
}

// updateNodeSet makes the set of nodes equal to the nodes that are known.
func (k *kernel) updateNodeSet() error {
	if !k.config.Masquerade || !k.config.PodCIDR(false).IsValid() {
		return nil
	}
	c, err := k.nft()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	nodes := &nftables.Set{Table: table, Name: "nodes", KeyType: nftables.TypeIPAddr}
	c.FlushSet(nodes)
	if err := c.SetAddElements(nodes, k.nodeElements()); err != nil {
		return fmt.Errorf("filling the set of nodes: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing the set of nodes: %w", err)
	}
	return nil
}

func removeTable(ns *namespace) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.file.Fd())))
	if err != nil {
		return fmt.Errorf("talking to nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing the nftables table: %w", err)
	}
	return nil
}
