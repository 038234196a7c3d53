package main

import (
	"fmt"
	"time"

	"github.com/kooworker/kooworker/worker/webhook"
)

// webhookFlags say who is told of complete batches.
type webhookFlags struct {
	URL     string        `name:"webhook-url" env:"KOOWORKER_WEBHOOK_URL" group:"webhook" placeholder:"URL" help:"POST to this URL when a batch is complete. All workers of a Redis want the same."`
	Timeout time.Duration `name:"webhook-timeout" env:"KOOWORKER_WEBHOOK_TIMEOUT" group:"webhook" default:"10s" help:"For one POST (${default})."`

	InsecureHTTP bool `name:"webhook-insecure-http" env:"KOOWORKER_WEBHOOK_INSECURE_HTTP" group:"webhook" help:"Allow plain HTTP to another machine."`
}

// The variables that hold the webhook's secret, or say where it is.
const (
	envWebhookSecret     = "KOOWORKER_WEBHOOK_SECRET"
	envWebhookSecretFile = "KOOWORKER_WEBHOOK_SECRET_FILE"
)

const webhookHelp = `Signed as Standard Webhooks say, with the secret in KOOWORKER_WEBHOOK_SECRET, or in the file that KOOWORKER_WEBHOOK_SECRET_FILE names, read again when it changes.`

// sender returns nil if nobody is told.
func (f webhookFlags) sender() (*webhook.Sender, error) {
	if f.URL == "" {
		return nil, nil
	}
	name, value, err := oneOf(envWebhookSecret, envWebhookSecretFile)
	if err != nil {
		return nil, fmt.Errorf("--webhook-url: %w", err)
	}
	var secret webhook.SecretSource
	if name == envWebhookSecret {
		secret, err = webhook.StaticSecret(value)
	} else {
		secret, err = webhook.SecretFile(value)
	}
	if err != nil {
		return nil, usagef("%s: %w", name, err)
	}
	sender, err := webhook.New(webhook.Config{
		URL: f.URL, Secret: secret, Timeout: f.Timeout, InsecureHTTP: f.InsecureHTTP, UserAgent: "kooworker/" + build().Version,
	})
	if err != nil {
		return nil, usagef("--webhook-url: %w", err)
	}
	return sender, nil
}
