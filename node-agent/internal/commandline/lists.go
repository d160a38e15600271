package commandline

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

// list is a command that asks one question and prints the answer as a table or as JSON.
func list[T proto.Message](use, short string, question func(context.Context, fairleadv1.AgentServiceClient) (T, error), header string, rows func(T) [][]string) *cobra.Command {
	var s settings
	command := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return ask(command.Context(), s.socket, func(ctx context.Context, client fairleadv1.AgentServiceClient) error {
				answer, err := question(ctx, client)
				if err != nil {
					return err
				}
				return s.print(command.OutOrStdout(), answer, func(w io.Writer) error { return columns(w, header, rows(answer)) })
			})
		},
	}
	s.bind(command)
	return command
}

func endpointsCommand() *cobra.Command {
	return list("endpoints", "This node's endpoints: pods, their identities and policy",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListEndpointsResponse, error) {
			return client.ListEndpoints(ctx, &fairleadv1.ListEndpointsRequest{})
		},
		"ENDPOINT|POLICY (INGRESS)|POLICY (EGRESS)|IDENTITY|POD|ADDRESS|INTERFACE|STATE|LABELS",
		func(answer *fairleadv1.ListEndpointsResponse) [][]string {
			var rows [][]string
			for _, e := range answer.GetEndpoints() {
				rows = append(rows, []string{fmt.Sprint(e.GetId()), enabled(e.GetPolicyIngress()), enabled(e.GetPolicyEgress()), fmt.Sprint(e.GetIdentity()),
					e.GetNamespace() + "/" + e.GetPodName(), strings.Join(e.GetAddresses(), ","), e.GetInterface(), e.GetState(), strings.Join(e.GetLabels(), ",")})
			}
			return rows
		})
}

func identitiesCommand() *cobra.Command {
	return list("identities", "Identities that this node knows, with their labels",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListIdentitiesResponse, error) {
			return client.ListIdentities(ctx, &fairleadv1.ListIdentitiesRequest{})
		},
		"IDENTITY|LABELS",
		func(answer *fairleadv1.ListIdentitiesResponse) [][]string {
			var rows [][]string
			for _, i := range answer.GetIdentities() {
				rows = append(rows, []string{fmt.Sprint(i.GetIdentity()), strings.Join(i.GetLabels(), " ")})
			}
			return rows
		})
}

func services(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListServicesResponse, error) {
	return client.ListServices(ctx, &fairleadv1.ListServicesRequest{})
}

func serviceRows(answer *fairleadv1.ListServicesResponse) [][]string {
	var rows [][]string
	for _, s := range answer.GetServices() {
		var backends []string
		for _, b := range s.GetBackends() {
			text := fmt.Sprintf("%s:%d", b.GetAddress(), b.GetPort())
			if note := backendNote(b); note != "" {
				text += " (" + note + ")"
			}
			backends = append(backends, text)
		}
		rows = append(rows, []string{fmt.Sprintf("%s:%d/%s", s.GetAddress(), s.GetPort(), protocolName(s.GetProtocol())), s.GetKind(),
			s.GetNamespace() + "/" + s.GetName(), s.GetPortName(), s.GetAlgorithm(), strings.Join(s.GetFlags(), ", "), strings.Join(backends, ", ")})
	}
	return rows
}

// backendNote says what keeps some clients from a backend.
func backendNote(b *fairleadv1.ServiceBackend) string {
	var notes []string
	if b.GetState() != "" && b.GetState() != "active" {
		notes = append(notes, b.GetState())
	}
	switch {
	case b.GetInternal() && !b.GetExternal():
		notes = append(notes, "inside only")
	case b.GetExternal() && !b.GetInternal():
		notes = append(notes, "outside only")
	case !b.GetExternal():
		notes = append(notes, "nobody new")
	}
	return strings.Join(notes, ", ")
}

const serviceHeader = "FRONTEND|TYPE|SERVICE|PORT NAME|ALGORITHM|FLAGS|BACKENDS"

func servicesCommand() *cobra.Command {
	return list("services", "Services as the datapath holds them", services, serviceHeader, serviceRows)
}

func policiesCommand() *cobra.Command {
	return list("policies", "What every policy does on this node",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListPoliciesResponse, error) {
			return client.ListPolicies(ctx, &fairleadv1.ListPoliciesRequest{})
		},
		"KIND|POLICY|VALID|ENTRIES|SELECTS HERE|PROBLEMS",
		func(answer *fairleadv1.ListPoliciesResponse) [][]string {
			var rows [][]string
			for _, p := range answer.GetPolicies() {
				name := p.GetName()
				if p.GetNamespace() != "" {
					name = p.GetNamespace() + "/" + name
				}
				rows = append(rows, []string{p.GetKind(), name, fmt.Sprint(p.GetValid()), fmt.Sprint(p.GetEntries()), strings.Join(p.GetSelects(), ","), strings.Join(p.GetProblems(), "; ")})
			}
			return rows
		})
}

func journalCommand() *cobra.Command {
	return list("journal", "Every change that the agent made on this node, and how it is undone",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListJournalResponse, error) {
			return client.ListJournal(ctx, &fairleadv1.ListJournalRequest{})
		},
		"NUMBER|TIME|KIND|SUBJECT|BEFORE|AFTER|UNDO",
		func(answer *fairleadv1.ListJournalResponse) [][]string {
			var rows [][]string
			for _, e := range answer.GetEntries() {
				rows = append(rows, []string{fmt.Sprint(e.GetSequence()), e.GetTime().AsTime().Format("2006-01-02 15:04:05"), e.GetKind(), e.GetSubject(), short(e.GetBefore()), short(e.GetAfter()), short(e.GetUndo())})
			}
			return rows
		})
}

// short keeps a cell on one line of a terminal; -o json has it whole.
func short(text string) string {
	text = strings.ReplaceAll(text, "\n", " ")
	if len(text) > 60 {
		return text[:57] + "..."
	}
	return text
}

func enabled(on bool) string {
	if on {
		return "Enabled"
	}
	return "Disabled"
}
