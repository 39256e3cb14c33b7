"""A tiny model that names one of the bandit's two arms at random: what there is to learn is which one."""

import random

from uncollapse.core.components import Answer, Completion
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.bandit import PAIRS, Bandit
from uncollapse.plugins.experiments.cloned_qwen2 import ClonedQwen2
from uncollapse.plugins.experiments.cloning import clone
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.rollout import rows
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.dialogue import setting_of
from uncollapse.plugins.rollout.template import Template

ROLLOUT = {
    "groups": 8,
    "group_size": 4,
    "max_turns": 1,
    "max_actions": 1,
    "max_actions_per_turn": 1,
    "max_tokens": 12,
    "think": False,
}
STEPS, BATCH = 150, 16


def build(directory):
    """Clone random choices into a model of about 0.1M parameters; some seconds."""
    bandit, rollout, dialogue = Bandit(), Rollout(**ROLLOUT), ThinkAnswer()
    setting = setting_of(bandit, rollout)
    names = [name for pairs in PAIRS.values() for pair in pairs for name in pair]
    said = [dialogue.system(setting), dialogue.summary(Answer()), *names]
    tokenizer = build_tokenizer([*said, dialogue.ask(1, bandit.make(0).initial_observation(), 1, setting)])
    template, rng = Template(tokenizer, dialogue, think=False), random.Random(0)

    def episode(seed):
        conversation = Conversation(bandit, rollout, template, seed)
        text = f"{rng.choice(bandit.make(seed).names)}</answer>"
        tokens = (*tokenizer.encode(text, add_special_tokens=False), template.end_of_turn)
        conversation.advance(Completion(tokens, (0.0,) * len(tokens), "eos"))
        return conversation.episode()

    model = ClonedQwen2()._model(tokenizer)
    steps = ([episode(BATCH * step + row) for row in range(BATCH)] for step in range(STEPS))
    clone(model, (rows.build(episodes, rollout, Reward()) for episodes in steps), STEPS, 4e-3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
