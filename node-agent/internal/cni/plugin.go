package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/endpoints"
)

// errorUnavailable is CNI 1.1's "plugin not available"; errorLimited its "not available, existing containers limited".
const (
	errorUnavailable = 50
	errorTryAgain    = types.ErrTryAgainLater
)

// configuration is our part of the conflist.
type configuration struct {
	types.NetConf
}

// kubernetesArgs are what the kubelet passes through CNI_ARGS.
type kubernetesArgs struct {
	types.CommonArgs
	//nolint:revive // The names are the protocol's.
	K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID types.UnmarshallableString
}

// Main runs the plugin as the container runtime executes it and exits.
func Main(agentVersion string) {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status},
		version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "fairlead-cni "+agentVersion)
}

// ask sends a request to the agent.
func ask(verb string, r Request) (Reply, error) {
	client := http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", Socket)
		}}}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(r)
	if err != nil {
		return Reply{}, err
	}
	response, err := client.Post("http://agent/"+verb, "application/json", bytes.NewReader(body))
	if err != nil {
		return Reply{}, &unreachable{err}
	}
	defer response.Body.Close()
	var reply Reply
	if err := json.NewDecoder(response.Body).Decode(&reply); err != nil {
		return Reply{}, &unreachable{fmt.Errorf("the agent answered %s: %w", response.Status, err)}
	}
	if reply.Error != "" {
		code := uint(types.ErrInternal)
		if reply.Temporary {
			code = errorTryAgain
		}
		return reply, types.NewError(code, "fairlead: "+reply.Error, "")
	}
	return reply, nil
}

// unreachable says that the agent did not answer.
type unreachable struct{ err error }

func (u *unreachable) Error() string {
	return "the fairlead agent of this node does not answer on " + Socket + ": " + u.err.Error() +
		"; see its pod: kubectl -n kube-system get pods -l app.kubernetes.io/name=fairlead-agent -o wide"
}

func (u *unreachable) Unwrap() error { return u.err }

func asCNI(err error) error {
	var gone *unreachable
	if errors.As(err, &gone) {
		return types.NewError(errorTryAgain, gone.Error(), "")
	}
	return err
}

func requestOf(args *skel.CmdArgs) (Request, error) {
	var k kubernetesArgs
	if err := types.LoadArgs(args.Args, &k); err != nil {
		return Request{}, types.NewError(types.ErrInvalidEnvironmentVariables, "reading CNI_ARGS: "+err.Error(), "")
	}
	return Request{Request: endpoints.Request{ContainerID: args.ContainerID, NetworkInterface: args.IfName,
		Namespace: string(k.K8S_POD_NAMESPACE), PodName: string(k.K8S_POD_NAME), PodUID: string(k.K8S_POD_UID)}}, nil
}

func add(args *skel.CmdArgs) error {
	var c configuration
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, "reading the configuration: "+err.Error(), "")
	}
	request, err := requestOf(args)
	if err != nil {
		return err
	}
	if request.PodName == "" {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS names no pod", "fairlead attaches Kubernetes pods only")
	}
	reserved, err := ask("reserve", request)
	if err != nil {
		return asCNI(err)
	}
	link, err := podlink.SetupPodInterface(args.Netns, args.IfName, podlink.Params{Addresses: reserved.Addresses, Routers: reserved.Routers, MTU: reserved.MTU})
	if err != nil {
		_, releaseErr := ask("detach", request)
		return types.NewError(types.ErrInternal, "making the pod's interface: "+errors.Join(err, releaseErr).Error(), "")
	}
	request.Link = link
	reply, err := ask("attach", request)
	if err != nil {
		removeErr := podlink.TeardownPodInterface(link.Interface)
		_, releaseErr := ask("detach", request)
		if removeErr != nil || releaseErr != nil {
			fmt.Fprintln(os.Stderr, "fairlead: after a failed attachment:", errors.Join(removeErr, releaseErr))
		}
		return asCNI(err)
	}
	const host = 0
	pod := 1
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			host: {Name: reply.HostInterface, Mac: net.HardwareAddr(link.HostMAC[:]).String()},
			1:    {Name: args.IfName, Mac: net.HardwareAddr(link.PodMAC[:]).String(), Sandbox: args.Netns, Mtu: reply.MTU},
		},
	}
	for i, a := range reply.Addresses {
		bits, gateway := a.BitLen(), reply.Routers[i].AsSlice()
		result.IPs = append(result.IPs, &current.IPConfig{Interface: &pod, Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Gateway: gateway})
		result.Routes = append(result.Routes, &types.Route{Dst: net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}, GW: gateway})
	}
	return types.PrintResult(result, c.CNIVersion)
}

// del never fails for what is gone already, and works without the agent, which learns of it at its next start.
func del(args *skel.CmdArgs) error {
	request, err := requestOf(args)
	if err != nil {
		return err
	}
	_, err = ask("detach", request)
	var gone *unreachable
	if err != nil && errors.As(err, &gone) {
		err = bury(Tombstones, Tombstone{ContainerID: args.ContainerID, NetworkInterface: args.IfName})
	}
	return errors.Join(err, removeInside(args.Netns, args.IfName))
}

// removeInside removes the interface, and with it the host's end, from inside of the pod.
func removeInside(path, name string) error {
	if path == "" {
		return nil
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil // gone, and its interfaces with it
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talking to the pod's network namespace: %w", err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(name)
	if err != nil {
		return nil
	}
	if err := inside.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

func check(args *skel.CmdArgs) error {
	request, err := requestOf(args)
	if err != nil {
		return err
	}
	reply, err := ask("check", request)
	if err != nil {
		return asCNI(err)
	}
	if _, err := net.InterfaceByName(reply.HostInterface); err != nil {
		return types.NewError(types.ErrInternal, "the pod's interface "+reply.HostInterface+" is gone from the node", "")
	}
	ns, err := netns.GetFromPath(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInternal, "the pod's network namespace is gone: "+err.Error(), "")
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return types.NewError(types.ErrInternal, err.Error(), "")
	}
	defer inside.Close()
	link, err := inside.LinkByName(args.IfName)
	if err != nil {
		return types.NewError(types.ErrInternal, args.IfName+" is gone from the pod: "+err.Error(), "")
	}
	addresses, err := inside.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return types.NewError(types.ErrInternal, err.Error(), "")
	}
	for _, want := range reply.Addresses {
		if !slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.Equal(want.AsSlice()) }) {
			return types.NewError(types.ErrInternal, fmt.Sprintf("%s does not have address %s", args.IfName, want), "")
		}
	}
	return nil
}

func collect(args *skel.CmdArgs) error {
	var c configuration
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, "reading the configuration: "+err.Error(), "")
	}
	request := Request{Valid: []string{}}
	for _, a := range c.ValidAttachments {
		request.Valid = append(request.Valid, a.ContainerID+"/"+a.IfName)
	}
	_, err := ask("collect", request)
	return asCNI(err)
}

func status(*skel.CmdArgs) error {
	_, err := ask("status", Request{})
	if err != nil {
		return types.NewError(errorUnavailable, strings.TrimPrefix(err.Error(), "fairlead: "), "")
	}
	return nil
}
