package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// Block is a range that ipBlocks of Kubernetes network policies name. Number stands for it in the place of an identity in the
// lines that apply to whoever has an address in it.
type Block struct {
	Prefix netip.Prefix
	Number uint32
}

// allIPv4 is always there beside ranges of IPv6, with the number 0 where no ipBlock names it: IPv4 addresses are mapped, so that
// ::/0 contains them as well.
var allIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// UpsertBlocks implements Datapath. Connections are judged again when lines change, not here: a range is published when its
// number has all the lines that the longest range around it had.
func (k *kernel) UpsertBlocks(ctx context.Context, blocks ...Block) error {
	return k.change(ctx, "publishing ranges of ipBlocks", func() error {
		var failed []error
		if slices.ContainsFunc(blocks, func(b Block) bool { return b.Prefix.Addr().Is6() }) {
			err := k.objects.maps["blocks"].Update(prefixToKey(allIPv4), uint32(0), ebpf.UpdateNoExist)
			if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
				return fmt.Errorf("keeping IPv4 apart from ipBlocks of IPv6: %w", err)
			}
		}
		for _, b := range blocks {
			if err := k.objects.maps["blocks"].Update(prefixToKey(b.Prefix), b.Number, ebpf.UpdateAny); err != nil {
				failed = append(failed, fmt.Errorf("publishing the ipBlock %s: %w", b.Prefix, err))
			}
		}
		return errors.Join(failed...)
	})
}

// DeleteBlocks implements Datapath.
func (k *kernel) DeleteBlocks(ctx context.Context, prefixes ...netip.Prefix) error {
	return k.change(ctx, "forgetting ranges of ipBlocks", func() error {
		var failed []error
		for _, p := range prefixes {
			var err error
			if p == allIPv4 {
				err = k.objects.maps["blocks"].Update(prefixToKey(p), uint32(0), ebpf.UpdateAny)
			} else {
				err = ignoreMissing(k.objects.maps["blocks"].Delete(prefixToKey(p)))
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("forgetting the ipBlock %s: %w", p, err))
			}
		}
		return errors.Join(failed...)
	})
}

// Blocks implements Datapath.
func (k *kernel) Blocks() ([]Block, error) {
	var out []Block
	err := k.read("listing ranges of ipBlocks", func() error {
		var key ipcacheKeyLayout
		var number uint32
		all := k.objects.maps["blocks"].Iterate()
		for all.Next(&key, &number) {
			if number != 0 {
				out = append(out, Block{Prefix: keyToPrefix(key), Number: number})
			}
		}
		return all.Err()
	})
	return out, err
}
