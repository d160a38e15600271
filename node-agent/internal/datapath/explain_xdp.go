package datapath

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// actXDPDrop is the verdict of XDP programs that drop.
const actXDPDrop = 1

// prefilter asks the prefilter about a frame that arrives at a device, where it has one. True: the frame ends there.
func (w *walk) prefilter(device string, frame []byte, source netip.Addr) (refused bool, err error) {
	p := w.k.dry.objects.programs[xdpPrefilter]
	if p == nil || !w.known.prefiltered[device] {
		return false, nil
	}
	if err := w.k.dry.drain(func([]byte) {}); err != nil {
		return false, err
	}
	verdict, err := p.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)})
	if err != nil {
		return false, fmt.Errorf("running %s: %w", xdpPrefilter, err)
	}
	s := ExplainStep{Hook: xdpPrefilter, Kind: "prefilter", Map: "refused6", Key: source.String(), Text: fmt.Sprintf("%s is in no refused network, at XDP of %s", source, device)}
	if source.Is4() {
		s.Map = "refused4"
	}
	if verdict != actXDPDrop {
		w.add(s)
		return false, nil
	}
	var index uint32
	if err := w.k.dry.drain(func(raw []byte) {
		if r, ok := decodeStep(raw); ok && r.Kind == stepPrefilter {
			index, s.File, s.Line, s.Found = r.Number[0], r.File, r.Line, true
		}
	}); err != nil {
		return false, err
	}
	if !s.Found {
		return false, fmt.Errorf("%s dropped the packet without a word", xdpPrefilter)
	}
	if s.Network, err = w.k.refusedNetwork(index); err != nil {
		return false, err
	}
	s.Value, s.Text = "a network that was just taken back", fmt.Sprintf("%s is in a refused network: dropped at XDP of %s", source, device)
	if s.Network.IsValid() {
		s.Value, s.Text = s.Network.String(), fmt.Sprintf("%s is in the refused network %s: dropped at XDP of %s", source, s.Network, device)
	}
	s.Verdict, s.Reason = "dropped", dropPolicyDeny
	w.add(s)
	w.dropped()
	w.out.Network = s.Network
	return true, nil
}
