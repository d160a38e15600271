package probe

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// Command is `fairlead-agent probe`: server and clients of the connectivity test. Clients print one JSON object and end
// with 0 also when the attempt failed: how it went is in the object.
func Command() *cobra.Command {
	command := &cobra.Command{Use: "probe", Short: "Server and clients of the connectivity test"}
	var port int
	serve := &cobra.Command{Use: "serve", Short: "Answer HTTP and UDP with who asks and who answers", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return Serve(c.Context(), port) }}
	serve.Flags().IntVar(&port, "port", 8080, "port for TCP and UDP")
	var method string
	var upload int64
	request := client("http URL", "Make one HTTP request", func(ctx context.Context, to string) any { return HTTP(ctx, method, to, upload) })
	request.Flags().StringVar(&method, "method", "GET", "method")
	request.Flags().Int64Var(&upload, "upload", 0, "bytes to send")
	var datagram, echo int
	udp := client("udp HOST:PORT", "Send one datagram", func(ctx context.Context, to string) any { return UDP(ctx, to, datagram) })
	udp.Flags().IntVar(&datagram, "size", 16, "bytes")
	ping := client("ping ADDRESS", "Send one echo request that may not be fragmented", func(ctx context.Context, to string) any { return Ping(ctx, to, echo) })
	ping.Flags().IntVar(&echo, "size", 56, "bytes")
	name := client("name NAME", "Resolve a name", func(ctx context.Context, to string) any { return Name(ctx, to) })
	disrupt := &cobra.Command{Use: "disrupt URL", Short: "Hold a connection and open others until standard input ends; print what was noticed", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithCancel(c.Context())
			go func() {
				_, _ = io.Copy(io.Discard, c.InOrStdin())
				cancel()
			}()
			defer cancel()
			return json.NewEncoder(c.OutOrStdout()).Encode(Disrupt(ctx, args[0]))
		}}
	command.AddCommand(serve, request, udp, ping, name, disrupt)
	return command
}

func client(use, short string, attempt func(context.Context, string) any) *cobra.Command {
	var limit time.Duration
	command := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(c.Context(), limit)
		defer cancel()
		return json.NewEncoder(c.OutOrStdout()).Encode(attempt(ctx, args[0]))
	}}
	command.Flags().DurationVar(&limit, "timeout", 3*time.Second, "how long it may take")
	return command
}
