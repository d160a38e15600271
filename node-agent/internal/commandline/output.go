package commandline

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// settings are the flags that every command has.
type settings struct {
	socket string
	output string
}

// bind adds the common flags.
func (s *settings) bind(command *cobra.Command) {
	command.Flags().StringVar(&s.socket, "socket", DefaultSocket, "the agent's Unix socket")
	command.Flags().StringVarP(&s.output, "output", "o", "table", "table or json")
}

// check refuses an output format that is not known.
func (s *settings) check() error {
	if s.output == "table" || s.output == "json" {
		return nil
	}
	return fmt.Errorf("-o takes table or json, not %q", s.output)
}

// print writes the message as JSON, or calls table.
func (s *settings) print(w io.Writer, message proto.Message, table func(io.Writer) error) error {
	if s.output != "json" {
		return table(w)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true, Indent: "  "}.Marshal(message)
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	_, err = fmt.Fprintln(w, string(text))
	return err
}

// columns prints rows under a header, aligned. Empty cells become "-".
func columns(w io.Writer, header string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	fmt.Fprintln(table, strings.Join(strings.Split(header, "|"), "\t"))
	for _, row := range rows {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

// protocolName is the protocol's name, or its number where it has none here.
func protocolName(protocol uint32) string {
	switch protocol {
	case 0:
		return "ANY"
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	default:
		return fmt.Sprint(protocol)
	}
}

// bytesText is a size in binary units.
func bytesText(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%d B", n)
	}
}

// portText writes a port with its prefix as the range it stands for; 0 bits is every port.
func portText(port, prefix uint32) string {
	switch {
	case prefix == 0:
		return "ANY"
	case prefix >= 16:
		return fmt.Sprint(port)
	default:
		return fmt.Sprintf("%d-%d", port, port|(1<<(16-prefix)-1))
	}
}
