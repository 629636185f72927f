"""One prompt, every way of decoding: greedy, beams, top-k, top-p, all of it together, contrastive, the best of several.

Greedy, beam and contrastive search write the same each time; another --seed draws other tokens for the rest.
"""

import argparse

import posttrain

WAYS = {
    "greedy": {},
    "beam search": {
        "search": {"beam": {"width": 5, "early_stopping": True}},
        "process": {"no_repeat_ngram": {"n": 2}},
    },
    "top-k": {"search": {"sampling": {"top_k": 50}}},
    "top-p": {"search": {"sampling": {"top_p": 0.9}}},
    "top-k, top-p, temperature": {"search": {"sampling": {"temperature": 0.7, "top_k": 50, "top_p": 0.95}}},
    "min-p": {"search": "sampling", "process": {"min_p": {"p": 0.1}}},
    "contrastive": {"search": {"contrastive": {"k": 4, "alpha": 0.6}}},
    "best of 4": {"search": {"best_of_n": {"n": 4, "reranker": "likelihood"}}},
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--prompt", default="Artificial intelligence will")
parser.add_argument("--tokens", type=int, default=40)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

model = posttrain.load(options.model)
for name, way in WAYS.items():
    found = posttrain.generate(model, options.prompt, max_new_tokens=options.tokens, seed=options.seed, **way)
    written = found.generations[0]
    nats = -written.logprob / len(written.logprobs)
    print(f"== {name}: {nats:.2f} nats a token under the model, {found.tokens_per_second:.1f} tokens a second")
    print(written.text.strip())
