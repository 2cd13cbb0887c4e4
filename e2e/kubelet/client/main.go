// kubelet-client asks a kubelet what the API server would ask it, by the same library as kubectl. The server's certificate is
// its own, so it is not looked at.
//
//	kubelet-client get URL
//	kubelet-client stream URL         exec or attach, with standard input if URL says input=1
//	kubelet-client forward URL PORT   standard input goes to the pod's port, its answer to standard output
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		var exit utilexec.CodeExitError
		if errors.As(err, &exit) {
			os.Exit(exit.Code)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("what, and a URL")
	}
	to, err := url.Parse(args[1])
	if err != nil {
		return err
	}
	switch {
	case args[0] == "get":
		return get(to)
	case args[0] == "stream":
		return stream(to)
	case args[0] == "forward" && len(args) == 3:
		return forward(to, args[2])
	}
	return fmt.Errorf("unknown: %v", args)
}

func get(from *url.URL) error {
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answer, err := client.Get(from.String())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

func config() *rest.Config {
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func stream(to *url.URL) error {
	executor, err := remotecommand.NewSPDYExecutor(config(), "POST", to)
	if to.Query().Has("websocket") {
		executor, err = remotecommand.NewWebSocketExecutor(config(), "GET", to.String())
	}
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr}
	if to.Query().Has("input") {
		options.Stdin = os.Stdin
	}
	if to.Query().Has("tty") {
		options.Tty, options.Stderr = true, nil
	}
	return executor.StreamWithContext(context.Background(), options)
}

func forward(to *url.URL, port string) error {
	transport, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", to)
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{":" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case err := <-failed:
		return err
	case <-ready:
	case <-time.After(time.Minute):
		return errors.New("the kubelet does not forward")
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	return converse(ports[0].Local)
}

func converse(port uint16) error {
	connection, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := io.Copy(connection, os.Stdin); err != nil {
		return err
	}
	if err := connection.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, connection)
	return err
}
