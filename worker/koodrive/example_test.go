package koodrive_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
)

func ExampleClient_Unbind() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":13000410,"msg":"no permission"}`))
	}))
	defer server.Close()

	source, err := koodrive.StaticToken("60f4ccc7b1")
	if err != nil {
		panic(err)
	}
	auth, err := koodrive.NewTokenAuthorizer(koodrive.DefaultTokenFormat, source)
	if err != nil {
		panic(err)
	}
	client, err := koodrive.New(koodrive.Config{BaseURL: server.URL, Authorizer: auth})
	if err != nil {
		panic(err)
	}
	defer client.CloseIdleConnections()

	answer := client.Unbind(context.Background(), "u-1", "1775406005920779393")
	fmt.Println(answer.Err())
	// Output: forbidden: HTTP 403, code 13000410: no permission
}

func ExampleParseReasons() {
	reasons, err := koodrive.ParseReasons([]string{"13000999=invalid", "APIGW.0999=throttled"})
	if err != nil {
		panic(err)
	}
	fmt.Println(reasons["13000999"] == tasks.Invalid, reasons["APIG.0999"])
	// Output: true throttled
}
