// A ttrpc peer in Go, for the tests of dunnage.ttrpc.
//
//	ttrpc-peer serve SOCKET   serves the methods below until it is killed
//	ttrpc-peer call SOCKET    calls each of them; one line on stdout per call
//
// Every message is a google.protobuf.StringValue.
package main

import (
	"fmt"
	"os"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "dunnage.test.Peer"

func text(value string) *wrapperspb.StringValue { return wrapperspb.String(value) }

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "call":
		err = callAll(os.Args[2])
	default:
		err = fmt.Errorf("usage: %s serve|call SOCKET", os.Args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
