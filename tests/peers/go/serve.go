package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func serve(path string) error {
	server, err := ttrpc.NewServer(
		ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	server.RegisterService(service, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo":     unary(echo),
			"Fail":     unary(fail),
			"Metadata": unary(metadata),
			"Deadline": unary(deadline),
		},
		Streams: map[string]ttrpc.Stream{
			"Count": {Handler: count, StreamingServer: true},
			"Join":  {Handler: join, StreamingClient: true},
			"Chat":  {Handler: chat, StreamingClient: true, StreamingServer: true},
			"Stall": {Handler: stall, StreamingClient: true},
		},
	})
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), listener)
}

type answer func(context.Context, string) (string, error)

func unary(handler answer) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		var request wrapperspb.StringValue
		if err := unmarshal(&request); err != nil {
			return nil, err
		}
		reply, err := handler(ctx, request.Value)
		return text(reply), err
	}
}

func echo(_ context.Context, request string) (string, error) { return request, nil }

// "CODE TEXT" fails with that code and text.
func fail(_ context.Context, request string) (string, error) {
	code, message, _ := strings.Cut(request, " ")
	number, err := strconv.Atoi(code)
	if err != nil {
		return "", err
	}
	return "", status.Error(codes.Code(number), message)
}

func metadata(ctx context.Context, key string) (string, error) {
	value, _ := ttrpc.GetMetadataValue(ctx, key)
	return value, nil
}

func deadline(ctx context.Context, _ string) (string, error) {
	_, has := ctx.Deadline()
	return strconv.FormatBool(has), nil
}

// "N" gives the numbers below N; "N CODE TEXT" fails afterwards.
func count(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	var request wrapperspb.StringValue
	if err := stream.RecvMsg(&request); err != nil {
		return nil, err
	}
	until, failure, fails := strings.Cut(request.Value, " ")
	number, err := strconv.Atoi(until)
	if err != nil {
		return nil, err
	}
	for i := range number {
		if err := stream.SendMsg(text(strconv.Itoa(i))); err != nil {
			return nil, err
		}
	}
	if fails {
		_, err = fail(context.Background(), failure)
	}
	return nil, err
}

func join(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	var words []string
	for {
		var request wrapperspb.StringValue
		if err := stream.RecvMsg(&request); errors.Is(err, io.EOF) {
			return text(strings.Join(words, ",")), nil
		} else if err != nil {
			return nil, err
		}
		words = append(words, request.Value)
	}
}

// Answers each message at once; "bye" ends the stream from this side.
func chat(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	for {
		var request wrapperspb.StringValue
		if err := stream.RecvMsg(&request); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if request.Value == "bye" {
			return nil, nil
		}
		if err := stream.SendMsg(text(fmt.Sprintf("<%s>", request.Value))); err != nil {
			return nil, err
		}
	}
}

// Never receives anything.
func stall(ctx context.Context, _ ttrpc.StreamServer) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
