"""What a pipeline makes of a prompt before it is split into tokens, as data."""

from __future__ import annotations

from dataclasses import dataclass

INNER = -1
INSTRUCTION = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual"
    " descriptions suitable for image generation. Evaluate the level of detail in the user"
    " prompt:\n- If the prompt is simple, focus on adding specifics about colors, shapes, sizes,"
    " textures, and spatial relationships to create vivid and concrete scenes.\n- If the prompt"
    " is already detailed, refine and enhance the existing details slightly without"
    " overcomplicating.\nHere are examples of how to transform or refine prompts:\n- User Prompt:"
    " A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping"
    " peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n- User"
    " Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring"
    " glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker"
    " bus passing by towering glass skyscrapers.\nPlease generate only the enhanced description"
    " for the prompt below and avoid including any additional commentary or evaluations:\nUser"
    " Prompt: ")
"""That Sana's pipeline puts before each prompt (``complex_human_instruction``)."""


@dataclass(frozen=True)
class Template:
    """The text around a prompt.

    Attributes
    ----------
    before, after : put around it
    lower : whether the prompt is put into lower case first, and its outer spaces left out
    left_out : tokens at the beginning that the model does not see; `INNER`: those of `before` but
        the first and the last
    ragged : whether the model sees a text as long as it is, not filled up
    """

    before: str = ""
    after: str = ""
    lower: bool = False
    left_out: int = 0
    ragged: bool = False

    def filled(self, prompt: str) -> str:
        """The whole text."""
        return self.before + (prompt.lower().strip() if self.lower else prompt) + self.after


PLAIN = Template()
