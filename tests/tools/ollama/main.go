// SPDX-License-Identifier: Apache-2.0

// Ollama's own code for pulling and pushing, without its engine: tests/e2e/ollama.py copies server/{images,download,
// upload,auth}.go of the module beside this file and builds the lot.
//
//	client pull|push http://HOST:PORT/NAMESPACE/MODEL:TAG      models in $OLLAMA_MODELS, key in $HOME/.ollama
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ollama/ollama/api"
)

func main() {
	options := &registryOptions{Insecure: true}
	show := func(api.ProgressResponse) {}
	act := PullModel
	if os.Args[1] == "push" {
		act = PushModel
	}
	if err := act(context.Background(), os.Args[2], options, show); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
