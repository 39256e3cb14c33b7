"""The plugin registers the name. It imports neither torch nor the loss, so that listing stays fast."""

from uncollapse import hookimpl


@hookimpl
def register_policy_losses(register):
    register(
        "forking_tokens",
        "forking_tokens.loss:ForkingTokens",
        summary="policy gradient on the tokens with the highest entropy",
    )
