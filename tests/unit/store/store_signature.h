/* SPDX-License-Identifier: Apache-2.0 */
/* A signature made by the Python package model-signing 1.1.1 (a.txt, empty, sub/b.bin; method key), its public key, and
 * a key of a kind that is refused. */
#ifndef MDN_TEST_STORE_SIGNATURE_H
#define MDN_TEST_STORE_SIGNATURE_H

#define PYTHON_BUNDLE \
	"{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMaterial\":{\"pub" \
	"licKey\":{\"hint\":\"cc4caf3ab9bccd89195e1efdc530be1a8cda9e9462cb9deae2c15ece149cc344\"},\"tlogE" \
	"ntries\":[]},\"dsseEnvelope\":{\"payload\":\"ewogICJfdHlwZSI6ICJodHRwczovL2luLXRvdG8uaW8vU3RhdGV" \
	"tZW50L3YxIiwKICAic3ViamVjdCI6IFsKICAgIHsKICAgICAgIm5hbWUiOiAibSIsCiAgICAgICJkaWdlc3QiOiB7CiAgICA" \
	"gICAgInNoYTI1NiI6ICJjYmQ4ZTU0YTQzODdmMGVhYTcxMmJhOWFjMTYyN2YxMjRjM2M5MWJhZTlmZmE0NjBhNjY4YmI3OTU" \
	"zODlhN2FiIgogICAgICB9CiAgICB9CiAgXSwKICAicHJlZGljYXRlVHlwZSI6ICJodHRwczovL21vZGVsX3NpZ25pbmcvc2l" \
	"nbmF0dXJlL3YxLjAiLAogICJwcmVkaWNhdGUiOiB7CiAgICAic2VyaWFsaXphdGlvbiI6IHsKICAgICAgIm1ldGhvZCI6ICJ" \
	"maWxlcyIsCiAgICAgICJoYXNoX3R5cGUiOiAic2hhMjU2IiwKICAgICAgImFsbG93X3N5bWxpbmtzIjogZmFsc2UsCiAgICA" \
	"gICJpZ25vcmVfcGF0aHMiOiBbCiAgICAgICAgIi5naXQiLAogICAgICAgICIuZ2l0aWdub3JlIiwKICAgICAgICAiLmdpdGh" \
	"1YiIsCiAgICAgICAgIi5naXRhdHRyaWJ1dGVzIgogICAgICBdCiAgICB9LAogICAgInJlc291cmNlcyI6IFsKICAgICAgewo" \
	"gICAgICAgICJhbGdvcml0aG0iOiAic2hhMjU2IiwKICAgICAgICAiZGlnZXN0IjogIjg3NDI4ZmM1MjI4MDNkMzEwNjVlN2J" \
	"jZTNjZjAzZmU0NzUwOTY2MzFlNWUwN2JiZDdhMGZkZTYwYzRjZjI1YzciLAogICAgICAgICJuYW1lIjogImEudHh0IgogICA" \
	"gICB9LAogICAgICB7CiAgICAgICAgImFsZ29yaXRobSI6ICJzaGEyNTYiLAogICAgICAgICJkaWdlc3QiOiAiZTNiMGM0NDI" \
	"5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NSIsCiAgICAgICAgIm5hbWU" \
	"iOiAiZW1wdHkiCiAgICAgIH0sCiAgICAgIHsKICAgICAgICAiYWxnb3JpdGhtIjogInNoYTI1NiIsCiAgICAgICAgImRpZ2V" \
	"zdCI6ICIwMjYzODI5OTg5YjZmZDk1NGY3MmJhYWYyZmM2NGJjMmUyZjAxZDY5MmQ0ZGU3Mjk4NmVhODA4ZjZlOTk4MTNmIiw" \
	"KICAgICAgICAibmFtZSI6ICJzdWIvYi5iaW4iCiAgICAgIH0KICAgIF0KICB9Cn0=\",\"payloadType\":\"applicatio" \
	"n/vnd.in-toto+json\",\"signatures\":[{\"sig\":\"MEQCIH7o3+4L1KskEihZG1paxZo0e4id9zaOKHj29zWrbnhu" \
	"AiAPCCkstuMLATdF9UdwjuZXa+KYzv3WIYoPeK3fSM/XYg==\",\"keyid\":\"\"}]}}"

#define PYTHON_KEY \
	"-----BEGIN PUBLIC KEY-----\n" \
	"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy5HDk8rODKUG1WcmvSPLq5nW/3KL\n" \
	"mPUkFNZiXqvOmSBHa8M4JisGeLHTDRptmaxUQDiY7TL57EkAbJsxKJ8JNg==\n" \
	"-----END PUBLIC KEY-----\n"

#define ED25519_PUBLIC \
	"-----BEGIN PUBLIC KEY-----\n" \
	"MCowBQYDK2VwAyEAp3yn4jykOBUQvBQtxMLUUf+yGew/GDaHnGV58CwEhKM=\n" \
	"-----END PUBLIC KEY-----\n"

#endif
