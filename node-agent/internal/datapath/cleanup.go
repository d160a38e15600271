package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes everything that datapaths left in the calling thread's network namespace and below bpffs: links, and
// with them the programs; maps; interfaces; routes; the nftables table. Pods' own interfaces stay (podlink.List finds
// them); so do sysctls, whose undo commands are in the journal. It needs no open datapath, and running it twice is fine.
func Cleanup(ctx context.Context, bpffs string) error {
	ns, err := currentNamespace()
	if err != nil {
		return err
	}
	defer ns.file.Close()
	return ns.do(func() error {
		var problems []error
		note := func(doing string, err error) {
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				problems = append(problems, fmt.Errorf("%s: %w", doing, err))
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// Links first: from here on nothing reads the maps.
		root := filepath.Join(bpffs, "fairlead")
		note("removing links", os.RemoveAll(filepath.Join(root, "links")))
		note("removing filters", removeFilters())
		note("removing maps", os.RemoveAll(root))
		for _, name := range []string{hostName, tunnelDevice(TunnelVXLAN), tunnelDevice(TunnelGeneve)} {
			if l, err := netlink.LinkByName(name); err == nil {
				note("removing "+name, netlink.LinkDel(l))
			}
		}
		note("removing packet schedulers", removeSchedulers(func(int) bool { return false }))
		note("removing the proxies' routes", removeProxyRoutes())
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
			note("listing routes", err)
			for _, r := range routes {
				if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
					note(fmt.Sprintf("removing the route to %s", r.Dst), err)
				}
			}
		}
		note("removing rules", removeRules(ns))
		return errors.Join(problems...)
	})
}

// removeFilters takes our clsact filters off all interfaces (kernels before 6.6).
func removeFilters() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := netlink.FilterList(l, parent)
			if err != nil {
				continue
			}
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterName {
					if err := netlink.FilterDel(b); err != nil {
						return fmt.Errorf("from %s: %w", l.Attrs().Name, err)
					}
				}
			}
		}
	}
	return nil
}
