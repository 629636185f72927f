"""Answers whose form is certain: JSON by a schema, a text by a regular expression, one of a few words by a grammar.

The form is kept whatever the model would rather write; what stands in it is still the model's. Needs llguidance:
pip install 'posttrain[grammar]'.
"""

import argparse
import json

import posttrain

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "country": {"type": "string"},
        "inhabitants": {"type": "integer", "minimum": 1, "maximum": 100000000},
        "sights": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "country", "inhabitants", "sights"],
    "additionalProperties": False,
}
FORMS = {
    "Describe the city of Paris.": {"json_schema": {"schema": CITY}},
    "On which day did the first human walk on the Moon?": {"regex": {"pattern": "[0-9]{4}-[01][0-9]-[0-3][0-9]"}},
    "Is 17 a prime number?": {"grammar": {"lark": 'start: "yes" | "no" | "I don\'t know"'}},
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--tokens", type=int, default=96)
options = parser.parse_args()

model = posttrain.load(options.model)
for question, form in FORMS.items():
    found = posttrain.generate(model, question, chat=True, process=[form], max_new_tokens=options.tokens)
    text = found.generations[0].text
    print(question, "->", json.loads(text) if "json_schema" in form else text)
