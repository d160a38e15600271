// Package commandline is the node's command line: it asks the running agent over its Unix socket and prints what it says.
package commandline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

// DefaultSocket is where the agent answers on its node; only root may open it.
const DefaultSocket = "/var/run/fairlead/agent.sock"

// requestTimeout bounds every question that is not a stream.
const requestTimeout = 5 * time.Second

// connect opens the agent's socket. The connection is made with the first call.
func connect(socket string) (*grpc.ClientConn, error) {
	if _, err := os.Stat(socket); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the agent does not answer: there is no socket %s\n"+
				"why: no agent runs on this node, or it has not got that far\n"+
				"fix: look at the agent's pod in kube-system; on the node itself run this as root", socket)
		}
		return nil, fmt.Errorf("opening %s: %w", socket, err)
	}
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", socket, err)
	}
	return connection, nil
}

// ask runs one question with a deadline and says plainly what went wrong.
func ask(ctx context.Context, socket string, question func(context.Context, fairleadv1.AgentServiceClient) error) error {
	connection, err := connect(socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return explain(question(ctx, fairleadv1.NewAgentServiceClient(connection)))
}

// explain turns a gRPC error into a sentence.
func explain(err error) error {
	if err == nil {
		return nil
	}
	answer, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch answer.Code() {
	case codes.Unavailable:
		return fmt.Errorf("the agent does not answer: %s\nwhy: it may be starting or have ended just now\n"+
			"fix: try again; if it stays, look at the agent's log", answer.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("the agent did not answer within %s\nfix: look at the node's load and the agent's log", requestTimeout)
	case codes.Unimplemented:
		return fmt.Errorf("this agent does not know that question: %s\nwhy: it is of another version than this command\n"+
			"fix: run the command inside the agent's own pod", answer.Message())
	default:
		return errors.New(answer.Message())
	}
}
