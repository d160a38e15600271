package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

const (
	// horizon is how long a packet may have to wait for its turn; what would wait for longer is dropped. It is Cilium's.
	horizon = 2 * time.Second
	// Where packets are dropped instead of kept, so much may pass at once: that of a time in which TCP gets over a loss by
	// its timer, or it would come to half of its limit; and no less than two packets of the largest size that segmentation
	// makes.
	policeTime  = 400 * time.Millisecond
	policeBytes = 128 << 10
)

// BandwidthMode is how limits of endpoints' bandwidth are enforced.
type BandwidthMode string

const (
	BandwidthOff BandwidthMode = "off"
	// BandwidthPaced gives what leaves the node a departure time, which the devices' fq scheduler keeps.
	BandwidthPaced BandwidthMode = "paced"
	// BandwidthPoliced drops what is above the limit.
	BandwidthPoliced BandwidthMode = "policed"
)

// Bandwidth says how what leaves the node is limited. What comes in is always policed.
type Bandwidth struct {
	Mode BandwidthMode
	// Why packets are not paced, and what to do about it.
	Why, Fix string
}

// Of gives the mode of one direction: what comes in cannot wait.
func (b Bandwidth) Of(d Direction) BandwidthMode {
	if d == Ingress && b.Mode == BandwidthPaced {
		return BandwidthPoliced
	}
	return b.Mode
}

// Rate is one limit, with what it passed and dropped since it was first set.
type Rate struct {
	Endpoint       EndpointID
	Direction      Direction
	BytesPerSecond uint64
	// Tolerance is how far ahead of its time a packet may be.
	Tolerance time.Duration
	// Ahead is how far ahead of its time the next packet would be.
	Ahead   time.Duration
	Bytes   uint64
	Dropped uint64
}

// chooseBandwidth finds out how limits can be enforced, and gives the devices their scheduler or takes it from them.
func (k *kernel) chooseBandwidth(devices []netlink.Link) error {
	k.bandwidth = Bandwidth{Mode: BandwidthOff}
	if k.config.BandwidthManager {
		k.bandwidth = k.scheduleDevices(devices)
	}
	k.config.bandwidth = k.bandwidth.Mode
	keep := map[int]bool{}
	if k.bandwidth.Mode == BandwidthPaced {
		for _, d := range devices {
			keep[d.Attrs().Index] = true
		}
	} else if k.bandwidth.Mode == BandwidthPoliced {
		k.options.log.Warn("limits of bandwidth drop packets instead of delaying them", "why", k.bandwidth.Why, "fix", k.bandwidth.Fix)
	}
	return removeSchedulers(func(index int) bool { return keep[index] })
}

// scheduleDevices puts fq on all devices. Where one cannot have it, nothing is paced: a departure time that nobody keeps is
// no limit.
func (k *kernel) scheduleDevices(devices []netlink.Link) Bandwidth {
	for _, need := range []struct{ probe, why, fix string }{
		{"fq", "the kernel has no packet scheduler fq", "Boot a kernel with CONFIG_NET_SCH_FQ, or load its module: modprobe sch_fq"},
		{"delivery-time", "the kernel forgets departure times on the way to the device", "Boot Linux 5.18 or newer."},
	} {
		if err := k.options.probes.Probe(need.probe); err != nil {
			return Bandwidth{Mode: BandwidthPoliced, Why: fmt.Sprintf("%s (%v)", need.why, err), Fix: need.fix}
		}
	}
	for _, d := range devices {
		if err := setScheduler(d, fqKind, k.options.journal); err != nil {
			out := Bandwidth{Mode: BandwidthPoliced, Why: err.Error(), Fix: "See the agent's log."}
			var foreign *ForeignSchedulerError
			if errors.As(err, &foreign) {
				out.Fix = "Remove it with `tc qdisc del dev " + foreign.Device + " root` and restart the agent, or leave it at that."
			}
			return out
		}
	}
	return Bandwidth{Mode: BandwidthPaced}
}

func (b Bandwidth) layout() uint16 {
	switch b.Mode {
	case BandwidthPaced:
		return bandwidthPace
	case BandwidthPoliced:
		return bandwidthPolice
	default:
		return 0
	}
}

// Bandwidth implements Datapath.
func (k *kernel) Bandwidth() Bandwidth {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bandwidth
}

// tolerance of a limit in that direction.
func (b Bandwidth) tolerance(d Direction, bytesPerSecond uint64) time.Duration {
	if b.Of(d) == BandwidthPaced {
		return horizon
	}
	return max(policeTime, time.Duration(policeBytes*uint64(time.Second)/bytesPerSecond))
}

// limits of the endpoint, by direction.
func (e Endpoint) limits() map[Direction]uint64 {
	return map[Direction]uint64{Ingress: e.IngressBandwidth, Egress: e.EgressBandwidth}
}

// writeRates makes the endpoint's entries what it says. Of one that stays, what was used and counted stays as well.
func (k *kernel) writeRates(e Endpoint) error {
	rates := k.objects.maps["rates"]
	for direction, limit := range e.limits() {
		key := rateKeyLayout{Endpoint: uint16(e.ID), Direction: uint8(direction)}
		var value rateLayout
		err := rates.Lookup(key, &value)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("reading a limit of endpoint %d: %w", e.ID, err)
		}
		known := err == nil
		if limit == 0 {
			// The flags that lead here may still be set for a moment; without an entry nothing is limited.
			if err := ignoreMissing(rates.Delete(key)); err != nil {
				return fmt.Errorf("lifting a limit of endpoint %d: %w", e.ID, err)
			}
			continue
		}
		tolerance := uint64(k.bandwidth.tolerance(direction, limit))
		if known && value.BytesPerSecond == limit && value.Tolerance == tolerance {
			continue
		}
		value.BytesPerSecond, value.Tolerance = limit, tolerance
		// A turn that was given at a slower rate would hold back the faster one for as long as that took.
		value.Next = min(value.Next, monotonic()+tolerance)
		if err := rates.Put(key, value); err != nil {
			return fmt.Errorf("limiting endpoint %d: %w", e.ID, err)
		}
	}
	return nil
}

func (k *kernel) eachRate(visit func(rateKeyLayout, rateLayout)) error {
	var key rateKeyLayout
	var value rateLayout
	all := k.objects.maps["rates"].Iterate()
	for all.Next(&key, &value) {
		visit(key, value)
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading limits: %w", err)
	}
	return nil
}

// restoreRates gives the endpoints of an earlier run their limits, and forgets those of nobody. It is called when the
// endpoints are known.
func (k *kernel) restoreRates() error {
	var gone []rateKeyLayout
	err := k.eachRate(func(key rateKeyLayout, value rateLayout) {
		e, ok := k.endpoints[EndpointID(key.Endpoint)]
		switch {
		case !ok:
			gone = append(gone, key)
			return
		case Direction(key.Direction) == Ingress:
			e.IngressBandwidth = value.BytesPerSecond
		default:
			e.EgressBandwidth = value.BytesPerSecond
		}
		k.endpoints[e.ID] = e
	})
	if err != nil {
		return err
	}
	for _, key := range gone {
		if err := ignoreMissing(k.objects.maps["rates"].Delete(key)); err != nil {
			return fmt.Errorf("forgetting a limit: %w", err)
		}
	}
	for _, e := range k.endpoints {
		// The tolerance depends on the mode, which may be another one now.
		if err := k.writeRates(e); err != nil {
			return err
		}
	}
	return nil
}

// Rates implements Datapath.
func (k *kernel) Rates() ([]Rate, error) {
	var out []Rate
	err := k.read("listing limits", func() error {
		now := monotonic()
		return k.eachRate(func(key rateKeyLayout, v rateLayout) {
			r := Rate{Endpoint: EndpointID(key.Endpoint), Direction: Direction(key.Direction), BytesPerSecond: v.BytesPerSecond,
				Tolerance: time.Duration(v.Tolerance), Bytes: v.Bytes, Dropped: v.Dropped}
			if v.Next > now {
				r.Ahead = time.Duration(v.Next - now)
			}
			out = append(out, r)
		})
	})
	slices.SortFunc(out, func(a, b Rate) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Direction, b.Direction))
	})
	return out, err
}

func rateStep(r *rawStep) ExplainStep {
	key, v := read[rateKeyLayout](r.Key[:]), read[rateLayout](r.Value[:])
	direction := map[Direction]string{Ingress: "into", Egress: "out of"}[Direction(key.Direction)]
	s := ExplainStep{Kind: "bandwidth", Map: "rates", Key: fmt.Sprintf("endpoint %d, direction %d", key.Endpoint, key.Direction),
		Text: fmt.Sprintf("what goes %s endpoint %d is not limited", direction, key.Endpoint)}
	if r.Found != 0 {
		s.Value = fmt.Sprintf("%d bytes per second", v.BytesPerSecond)
		s.Text = fmt.Sprintf("what goes %s endpoint %d is limited to %d bytes per second", direction, key.Endpoint, v.BytesPerSecond)
	}
	return s
}
