// fairlead-agent is the node agent, the CNI plugin and the node's command line in one binary.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"fairlead.dev/node-agent/internal/agent"
	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/commandline"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/facts"
	"fairlead.dev/node-agent/internal/preflight"
	"fairlead.dev/node-agent/internal/probe"
	"fairlead.dev/node-agent/internal/version"
)

func main() {
	// The container runtime waits for this one: no command line is set up for it.
	if filepath.Base(os.Args[0]) == cni.BinaryName && (len(os.Args) == 1 || os.Getenv("CNI_COMMAND") != "") {
		cni.Main(version.Version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1)
	}
}

func root() *cobra.Command {
	command := &cobra.Command{Use: "fairlead-agent", Short: "The network of one Kubernetes node", SilenceUsage: true, SilenceErrors: true}
	command.AddCommand(commandline.Commands()...)
	command.AddCommand(agentCommand(), cniCommand(), installCommand(), cleanupCommand(), relayCommand(), preflightCommand(), factsCommand(), versionCommand())
	command.AddCommand(probe.Command())
	return command
}

// cgroupRoots are where the node's cgroup2 tree may be.
var cgroupRoots = []string{"/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

func agentCommand() *cobra.Command {
	host, _ := os.Hostname()
	o := agent.Options{NodeName: environment("K8S_NODE_NAME", host), Namespace: environment("K8S_NAMESPACE", "kube-system"), Version: version.Version,
		CNIConfigsOnNode: "/etc/cni/net.d", CNIBinariesOnNode: "/opt/cni/bin", OpenDatapath: datapath.Open}
	command := &cobra.Command{Use: "agent", Short: "Run the agent; it stays in the foreground", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return agent.Run(c.Context(), o) }}
	flags := command.Flags()
	flags.StringVar(&o.ConfigPath, "config", "/etc/fairlead/config.yaml", "configuration")
	flags.StringVar(&o.RunDirectory, "run-directory", "/var/run/fairlead", "sockets and state of this boot")
	flags.StringVar(&o.StateDirectory, "state-directory", "/var/lib/fairlead", "journal")
	flags.StringVar(&o.TLSDirectory, "tls-directory", "/var/lib/fairlead/tls", "ca.crt, tls.crt and tls.key")
	flags.StringVar(&o.HubbleSocket, "hubble-socket", "/var/run/cilium/hubble.sock", "where the hubble command looks")
	flags.StringVar(&o.CNIBinaries, "cni-binaries", "/host/opt/cni/bin", "the node's CNI plugins")
	flags.StringVar(&o.CNIConfigs, "cni-configurations", "/host/etc/cni/net.d", "the node's CNI configurations")
	flags.StringVar(&o.BPFFS, "bpffs", "/sys/fs/bpf", "bpf file system")
	flags.StringSliceVar(&o.CgroupRoots, "cgroup-roots", cgroupRoots, "where the node's cgroup2 tree may be; the first that is one counts")
	return command
}

func relayCommand() *cobra.Command {
	o := agent.RelayOptions{Version: version.Version}
	command := &cobra.Command{Use: "relay", Short: "Answer Hubble's questions for all nodes of the cluster", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return agent.Relay(c.Context(), o) }}
	flags := command.Flags()
	flags.StringVar(&o.ConfigPath, "config", "/etc/fairlead/config.yaml", "the agents' configuration")
	flags.StringVar(&o.TLSDirectory, "tls-directory", "/var/lib/fairlead/tls", "ca.crt, tls.crt and tls.key")
	flags.StringVar(&o.Listen, "listen", ":4245", "where to answer, with mTLS")
	flags.StringVar(&o.Metrics, "metrics", ":9966", "where Prometheus is answered, unless prometheus.enabled is false")
	return command
}

func environment(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func cniCommand() *cobra.Command {
	return &cobra.Command{Use: "cni", Short: "The CNI plugin, as a container runtime executes it", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { cni.Main(version.Version) }}
}

func installCommand() *cobra.Command {
	var directory string
	command := &cobra.Command{Use: "install-cni", Short: "Copy this program to the CNI plugins (the agent does it by itself)", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := cni.InstallBinary(directory)
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			return err
		}}
	command.Flags().StringVar(&directory, "directory", "/opt/cni/bin", "the node's CNI plugins")
	return command
}

func cleanupCommand() *cobra.Command {
	o := agent.CleanupOptions{}
	var output string
	command := &cobra.Command{Use: "cleanup", Short: "Undo everything the agent changed on this node, and verify that nothing is left",
		Long: "Replays the journal backwards, removes programs, maps, interfaces, files and pods' interfaces, and lists what remains.\nPods of this node lose their network. Refuses while an agent runs.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.JSON = output == "json"
			return agent.Cleanup(c.Context(), o, c.OutOrStdout())
		}}
	flags := command.Flags()
	flags.StringVarP(&output, "output", "o", "", "json, or a table")
	flags.BoolVar(&o.Stay, "stay", false, "stay up afterwards and answer on 127.0.0.1:9879/healthz whether the node is clean")
	flags.StringVar(&o.RunDirectory, "run-directory", "/var/run/fairlead", "sockets and state of this boot")
	flags.StringVar(&o.StateDirectory, "state-directory", "/var/lib/fairlead", "journal")
	flags.StringVar(&o.HubbleSocket, "hubble-socket", "/var/run/cilium/hubble.sock", "hubble's socket")
	flags.StringVar(&o.BPFFS, "bpffs", "/sys/fs/bpf", "bpf file system")
	flags.StringSliceVar(&o.Cgroups, "cgroup-roots", cgroupRoots, "where programs for sockets may be attached")
	return command
}

func preflightCommand() *cobra.Command {
	var output string
	var only, peers []string
	command := &cobra.Command{Use: "preflight", Short: "Check whether this node can run the agent", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var addresses []netip.Addr
			for _, text := range peers {
				address, err := netip.ParseAddr(text)
				if err != nil {
					return fmt.Errorf("--peer %s: %w", text, err)
				}
				addresses = append(addresses, address)
			}
			checks, err := preflight.Only(preflight.Checks(addresses), only)
			if err != nil {
				return err
			}
			return preflight.Print(c.OutOrStdout(), preflight.Run(c.Context(), checks), output == "json")
		}}
	command.Flags().StringSliceVar(&only, "check", nil, "only these checks")
	command.Flags().StringSliceVar(&peers, "peer", nil, "addresses of other nodes")
	command.Flags().StringVarP(&output, "output", "o", "", "json, or a table")
	return command
}

func factsCommand() *cobra.Command {
	var configuration string
	command := &cobra.Command{Use: "facts", Short: "Print what this node is like as JSON: interfaces, cards, netfilter's rules", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			encoder := json.NewEncoder(c.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(facts.Read(configuration))
		}}
	command.Flags().StringVar(&configuration, "config", "/etc/fairlead/config.yaml", "the agent's configuration")
	return command
}

func versionCommand() *cobra.Command {
	var output string
	command := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output == "json" {
				return json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{"version": version.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), "fairlead-agent", version.Version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
			return err
		}}
	command.Flags().StringVarP(&output, "output", "o", "", "json, or a line")
	return command
}
