package commandline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
)

// Commands are the node's command line, to be added below the root command.
func Commands() []*cobra.Command {
	return []*cobra.Command{statusCommand(), endpointsCommand(), identitiesCommand(), servicesCommand(), policiesCommand(), bpfCommand(), journalCommand(), monitorCommand(), explainCommand()}
}

func monitorCommand() *cobra.Command {
	var s settings
	var last uint64
	var verdicts []string
	command := &cobra.Command{
		Use: "monitor", Short: "Flows of this node as they happen", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			filter, err := verdictFilter(verdicts)
			if err != nil {
				return err
			}
			connection, err := connect(s.socket)
			if err != nil {
				return err
			}
			defer connection.Close()
			stream, err := observerpb.NewObserverClient(connection).GetFlows(command.Context(), &observerpb.GetFlowsRequest{Follow: true, Number: last, Whitelist: filter})
			if err != nil {
				return explain(err)
			}
			for {
				response, err := stream.Recv()
				if errors.Is(err, io.EOF) || errors.Is(command.Context().Err(), context.Canceled) {
					return nil
				}
				if err != nil {
					return explain(err)
				}
				if err := s.printFlow(command.OutOrStdout(), response); err != nil {
					return err
				}
			}
		},
	}
	s.bind(command)
	command.Flags().Uint64Var(&last, "last", 20, "begin with so many past flows")
	command.Flags().StringSliceVar(&verdicts, "verdict", nil, "only these verdicts, e.g. DROPPED")
	return command
}

func verdictFilter(names []string) ([]*flowpb.FlowFilter, error) {
	if len(names) == 0 {
		return nil, nil
	}
	filter := &flowpb.FlowFilter{}
	for _, name := range names {
		number, ok := flowpb.Verdict_value[strings.ToUpper(name)]
		if !ok {
			return nil, fmt.Errorf("--verdict does not know %q\nfix: use FORWARDED, DROPPED, TRACED or TRANSLATED", name)
		}
		filter.Verdict = append(filter.Verdict, flowpb.Verdict(number))
	}
	return []*flowpb.FlowFilter{filter}, nil
}

func (s *settings) printFlow(w io.Writer, response *observerpb.GetFlowsResponse) error {
	if s.output == "json" {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(response)
		if err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		// protojson puts spaces in at random; one flow a line has to be stable.
		var compact json.RawMessage = text
		line, err := json.Marshal(compact)
		if err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		_, err = fmt.Fprintln(w, string(line))
		return err
	}
	if lost := response.GetLostEvents(); lost != nil {
		_, err := fmt.Fprintf(w, "LOST %d events (%s)\n", lost.GetNumEventsLost(), lost.GetSource())
		return err
	}
	flow := response.GetFlow()
	if flow == nil {
		return nil
	}
	why := ""
	switch {
	case flow.GetVerdict() == flowpb.Verdict_DROPPED:
		why = " " + flow.GetDropReasonDesc().String()
		why += policyNames(" by ", append(flow.GetIngressDeniedBy(), flow.GetEgressDeniedBy()...))
	default:
		why = policyNames(" allowed by ", append(flow.GetIngressAllowedBy(), flow.GetEgressAllowedBy()...))
	}
	_, err := fmt.Fprintf(w, "%s %-10s %s -> %s %s%s\n", flow.GetTime().AsTime().Local().Format("15:04:05.000"), flow.GetVerdict(),
		side(flow.GetSource(), flow.GetIP().GetSource()), side(flow.GetDestination(), flow.GetIP().GetDestination()), flow.GetSummary(), why)
	return err
}

// side names an endpoint: its pod, its reserved entity, or its address; always with its identity.
func side(endpoint *flowpb.Endpoint, address string) string {
	name := address
	if endpoint.GetPodName() != "" {
		name = endpoint.GetNamespace() + "/" + endpoint.GetPodName()
	} else {
		for _, label := range endpoint.GetLabels() {
			if entity, ok := strings.CutPrefix(label, "reserved:"); ok {
				name = address + " (" + entity + ")"
				break
			}
		}
	}
	return fmt.Sprintf("%s [%d]", name, endpoint.GetIdentity())
}

func policyNames(prefix string, policies []*flowpb.Policy) string {
	var names []string
	for _, policy := range policies {
		name := policy.GetName()
		if policy.GetNamespace() != "" {
			name = policy.GetNamespace() + "/" + name
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	return prefix + strings.Join(names, ", ")
}
