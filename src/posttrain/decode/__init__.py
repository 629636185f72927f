"""Decoding: one engine that runs a language model token by token, and the methods that decide what comes out.

`engine` turns prompts and tokens into logits and keeps what attention remembers; `processors` reshape those logits;
`search` decides which tokens to take, `rerankers` which of several answers is the best. `generation.generate` puts them
together.
"""
