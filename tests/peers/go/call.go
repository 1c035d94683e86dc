package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var (
	fromServer = ttrpc.StreamDesc{StreamingServer: true}
	fromClient = ttrpc.StreamDesc{StreamingClient: true}
	both       = ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
)

type caller struct{ client *ttrpc.Client }

func callAll(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	c := caller{ttrpc.NewClient(conn)}
	defer c.client.Close()
	tagged := ttrpc.WithMetadata(context.Background(), ttrpc.MD{"Key": {"value"}})
	timed, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	short, cancelShort := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancelShort()

	say("echo", c.unary(context.Background(), "Echo", "hello"))
	say("empty", c.unary(context.Background(), "Echo", ""))
	say("fail", c.unary(context.Background(), "Fail", "5 no such thing"))
	say("metadata", c.unary(tagged, "Metadata", "key"))
	say("deadline", c.unary(timed, "Deadline", ""))
	say("expired", c.unary(short, "Hang", ""))
	say("no method", c.unary(context.Background(), "Nope", ""))
	say("parallel", c.parallel(200))
	say("count", c.stream(&fromServer, "Count", text("5"), nil, true))
	say("count none", c.stream(&fromServer, "Count", text("0"), nil, true))
	say("count many", summary(c.stream(&fromServer, "Count", text("10000"), nil, true)))
	say("count fails", c.stream(&fromServer, "Count", text("2 11 not now"), nil, true))
	say("join", c.stream(&fromClient, "Join", nil, []string{"a", "", "b"}, true))
	say("join none", c.stream(&fromClient, "Join", nil, nil, true))
	say("chat", c.stream(&both, "Chat", nil, []string{"a", "b", "c"}, true))
	say("bye", c.stream(&both, "Chat", nil, []string{"a", "bye"}, false))
	say("no stream", c.stream(&both, "Nope", nil, nil, true))
	say("echo again", c.unary(context.Background(), "Echo", "still here"))
	return nil
}

func say(name, result string) { fmt.Printf("%s: %s\n", name, result) }

// How many words there are, the first and the last one.
func summary(words string) string {
	all := strings.Split(words, " ")
	return fmt.Sprint(len(all), " ", all[0], " ", strings.Join(all[len(all)-2:], " "))
}

func (c caller) unary(ctx context.Context, method, request string) string {
	var reply wrapperspb.StringValue
	if err := c.client.Call(ctx, service, method, text(request), &reply); err != nil {
		return err.Error()
	}
	return reply.Value
}

func (c caller) parallel(calls int) string {
	var group sync.WaitGroup
	var lock sync.Mutex
	good := 0
	for i := range calls {
		group.Add(1)
		go func() {
			defer group.Done()
			request := fmt.Sprint("call ", i)
			if request == c.unary(context.Background(), "Echo", request) {
				lock.Lock()
				good++
				lock.Unlock()
			}
		}()
	}
	group.Wait()
	return fmt.Sprint(good, " good")
}

// Sends the words, receiving meanwhile; returns what came and how it ended.
func (c caller) stream(
	desc *ttrpc.StreamDesc, method string, request any, words []string, closes bool,
) string {
	stream, err := c.client.NewStream(context.Background(), desc, service, method, request)
	if err != nil {
		return err.Error()
	}
	for _, word := range words {
		if err := stream.SendMsg(text(word)); err != nil {
			return err.Error()
		}
	}
	if closes && desc.StreamingClient {
		if err := stream.CloseSend(); err != nil {
			return err.Error()
		}
	}
	var found []string
	for {
		var reply wrapperspb.StringValue
		err := stream.RecvMsg(&reply)
		if errors.Is(err, io.EOF) {
			return strings.Join(append(found, "end"), " ")
		}
		if err != nil {
			return strings.Join(append(found, err.Error()), " ")
		}
		found = append(found, reply.Value)
	}
}
