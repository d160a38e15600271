package peer

import (
	peerpb "github.com/cilium/cilium/api/v1/peer"
)

// Server implements peer.Peer over a registry.
type Server struct{ registry *Registry }

// NewServer makes the service.
func NewServer(registry *Registry) *Server { return &Server{registry} }

// Notify sends every known peer as added, then every change, until the client goes.
func (s *Server) Notify(_ *peerpb.NotifyRequest, stream peerpb.Peer_NotifyServer) error {
	told := map[string]Peer{}
	for {
		peers, changed := s.registry.watch()
		for _, change := range difference(told, peers) {
			if err := stream.Send(change); err != nil {
				return err
			}
		}
		clear(told)
		for _, p := range peers {
			told[p.Name] = p
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// difference lists what turns the peers that a client knows into those there are: first what is gone.
func difference(told map[string]Peer, peers []Peer) []*peerpb.ChangeNotification {
	var changes []*peerpb.ChangeNotification
	present := map[string]bool{}
	for _, p := range peers {
		present[p.Name] = true
	}
	for name, p := range told {
		if !present[name] {
			changes = append(changes, notification(p, peerpb.ChangeNotificationType_PEER_DELETED))
		}
	}
	for _, p := range peers {
		known, ok := told[p.Name]
		switch {
		case !ok:
			changes = append(changes, notification(p, peerpb.ChangeNotificationType_PEER_ADDED))
		case known != p:
			changes = append(changes, notification(p, peerpb.ChangeNotificationType_PEER_UPDATED))
		}
	}
	return changes
}

func notification(p Peer, kind peerpb.ChangeNotificationType) *peerpb.ChangeNotification {
	n := &peerpb.ChangeNotification{Name: p.Name, Address: p.Address, Type: kind}
	if p.ServerName != "" {
		n.Tls = &peerpb.TLS{ServerName: p.ServerName}
	}
	return n
}
