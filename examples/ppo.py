"""PPO: sample answers, judge them, learn; held to the reference, which is the policy with its adapter switched off.

A function of this file judges; --reward runs/examples/judge takes the judge that reward_model.py has left there.
"""

import argparse

import posttrain


def plain(answers: list[str]) -> list[float]:
    """Share of words of up to five letters; 0 for an empty answer."""
    return [sum(len(word) <= 5 for word in text.split()) / max(1, len(text.split())) for text in answers]


def main() -> None:
    """Align and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--reward", default="ppo:plain", help="folder of a reward model, or module:function")
    parser.add_argument("--episodes", type=int, default=32)
    options = parser.parse_args()
    rollout = {"episodes_per_rollout": 16, "kl": {"coefficient": 0.05, "target": 6.0, "budget": 30.0}}
    settings = {"encoding": {"chat": True}, "learning_rate": 1e-3, "max_new_tokens": 32, "evaluation_prompts": 8}
    objective = {"ppo": {"rollout": rollout}}
    _, result = posttrain.align(options.model, objective, reward=options.reward, episodes=options.episodes, **settings)
    for each in result["rollouts"]:
        print(
            f"rollout {each['rollout']}: reward {each['reward']:.3f}, KL {each['kl']:.2f}, {each['length']:.1f} tokens"
        )
    print(f"reward {result['reward_before']:.3f} -> {result['reward_after']:.3f}, KL {result['kl']:.2f} nats an answer")


if __name__ == "__main__":
    main()
