"""Temperature: what it does to the next token and to a text, and which one is a good compromise for these prompts."""

import argparse

import posttrain

TEMPERATURES = [0.2, 0.5, 0.8, 1.0, 1.5]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--prompt", default="Once upon a time in a land far away,")
parser.add_argument("--tokens", type=int, default=32)
parser.add_argument("--prompts", type=int, default=6, help="how many of the built-in prompts are swept over")
options = parser.parse_args()

model = posttrain.load(options.model)
looked = posttrain.next_token_distribution(model, options.prompt, TEMPERATURES, top=5)
for place, temperature in enumerate(TEMPERATURES):
    sampling = {"temperature": temperature, "top_k": 50, "top_p": 0.95}
    found = posttrain.generate(model, options.prompt, search={"sampling": sampling}, max_new_tokens=options.tokens)
    print(f"== temperature {temperature:g}; the next token has {looked['entropies'][place]:.2f} nats of entropy")
    print(*(f"{each['text']!r} {each['probabilities'][place]:.3f}" for each in looked["tokens"]), sep="  ")
    print(found.generations[0].text.strip())

swept = posttrain.temperature_sweep(
    model, temperatures=TEMPERATURES, limit=options.prompts, samples=3, max_new_tokens=options.tokens
)
print(f"\n{'temperature':>11} {'perplexity':>11} {'Self-BLEU':>10} {'repetition':>11}")
for row in swept["temperatures"]:
    print(f"{row['temperature']:>11g} {row['perplexity']:>11.2f} {row['self_bleu']:>10.1f} {row['repetition']:>11.2f}")
print(f"recommended: {swept['recommended']:g}; {swept['recommended_share']:.0%} of the bootstrap draws agree")
