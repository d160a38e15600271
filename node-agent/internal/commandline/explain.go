package commandline

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

func explainCommand() *cobra.Command {
	var s settings
	var r fairleadv1.ExplainRequest
	command := &cobra.Command{
		Use: "explain --from namespace/pod --to namespace/pod|service:namespace/name|address --port N", Short: "Where a packet goes, and why: every step, from the socket to the wire",
		Long: "Runs the node's own programs on a packet that is made for the purpose, without leaving a trace: no connection, no\n" +
			"counter, no event. Where the packet goes on to another node, that node's programs are asked for the rest.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return ask(command.Context(), s.socket, func(ctx context.Context, client fairleadv1.AgentServiceClient) error {
				answer, err := client.Explain(ctx, &r)
				if err != nil {
					return err
				}
				if err := judgeFamily(&r, answer); err != nil {
					return err
				}
				return s.print(command.OutOrStdout(), answer, func(w io.Writer) error { return printExplanation(w, answer) })
			})
		},
	}
	s.bind(command)
	flags := command.Flags()
	flags.StringVar(&r.From, "from", "", "sender: namespace/pod, or a pod's address, whose family is taken then")
	flags.StringVar(&r.To, "to", "", "receiver: namespace/pod, service:namespace/name, or an address")
	flags.Uint32Var(&r.Port, "port", 0, "port of the receiver")
	flags.StringVar(&r.Protocol, "protocol", "tcp", "tcp, udp, sctp or icmp (an echo request)")
	flags.StringVar(&r.Family, "family", "", "ipv4 or ipv6; without it the family of the sender's address, or IPv4 where both ends have it")
	flags.Uint32Var(&r.SourcePort, "source-port", 0, "port of the sender, to ask about a connection that exists")
	flags.StringVar(&r.L7, "l7", "", `what is asked for, where rules of layer 7 decide: "GET http://host/path" or "DNS name"`)
	flags.BoolVar(&r.PerPacket, "per-packet", false, "the sender's process is out of reach of the socket programs")
	for _, required := range []string{"from", "to"} {
		if err := command.MarkFlagRequired(required); err != nil {
			panic(err)
		}
	}
	return command
}

// judgeFamily compares what an answer is about with the question: an agent of an older version, on the sender's node, does not look
// at the family. Where that cannot be told the answer gets a note.
func judgeFamily(r *fairleadv1.ExplainRequest, answer *fairleadv1.ExplainResponse) error {
	asked := strings.ToLower(r.GetFamily())
	if asked == "" || answer.GetFamily() == asked {
		return nil
	}
	about, node := answer.GetFamily(), "the sender"
	if about == "" {
		about = deducedFamily(answer.GetSteps())
	}
	if about == asked {
		return nil
	}
	if steps := answer.GetSteps(); len(steps) > 0 {
		node = steps[0].GetNode()
	}
	if about == "" {
		answer.Notes = append(answer.Notes, fmt.Sprintf("The agent of node %s is of an older version, which does not look at the family of a question: "+
			"this answer may not be about %s. Upgrade the agent, or give the sender by its address of %s.", node, asked, asked))
		return nil
	}
	return fmt.Errorf("the answer is about %s, and the question about %s\n"+
		"why: the agent of node %s is of an older version, which does not look at the family of a question\n"+
		"fix: upgrade the agent, or give the sender by its address of %s", about, asked, node, asked)
}

// packetMaps are asked by programs with addresses of the packet itself: those of a tunnel may be of another family.
var packetMaps = []string{"services", "endpoints", "ipcache", "connections", "openings", "blocks"}

// deducedFamily is that of the first address of the packet; empty where no step names one. The console does the same
// (main/engine/explain): whoever asks an older agent has to, and both are held together by testdata/families.json.
func deducedFamily(steps []*fairleadv1.ExplainStep) string {
	for _, step := range steps {
		if !slices.Contains(packetMaps, step.GetMap()) {
			continue
		}
		for word := range strings.FieldsFuncSeq(step.GetKey(), func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
			a, err := netip.ParseAddr(word)
			if err != nil {
				p, _ := netip.ParseAddrPort(word)
				a = p.Addr()
			}
			switch {
			case a.Unmap().Is4():
				return "ipv4"
			case a.Is6():
				return "ipv6"
			}
		}
	}
	return ""
}

// printExplanation writes the steps by node and program, and the answer at the end.
func printExplanation(w io.Writer, answer *fairleadv1.ExplainResponse) error {
	node, hook := "", ""
	for _, step := range answer.GetSteps() {
		if step.GetNode() != node {
			node, hook = step.GetNode(), ""
			fmt.Fprintf(w, "node %s\n", node)
		}
		if step.GetHook() != hook {
			hook = step.GetHook()
			fmt.Fprintf(w, "  %s\n", hook)
		}
		line := fmt.Sprintf("    %-14s %s", step.GetKind(), step.GetText())
		if step.GetMap() != "" {
			var found []string
			for _, part := range []string{step.GetMap() + "[" + step.GetKey() + "]", step.GetValue()} {
				if part != "" {
					found = append(found, part)
				}
			}
			line += "\n                   " + strings.Join(found, " = ")
		}
		if step.GetDropReason() != 0 && step.GetSource() != "" {
			line += "  [" + step.GetSource() + "]"
		}
		fmt.Fprintln(w, line)
	}
	for _, note := range answer.GetNotes() {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", strings.ToUpper(answer.GetVerdict()), answer.GetSummary())
	return err
}
