"""How a base model is brought to write a paragraph: eight examples, then the query (paper section 4.1)."""

from __future__ import annotations

from lc_jax.prompts.prompt import Prompt, Shot


def first_paragraph(text: str) -> str:
    """What a base model wrote, up to the first blank line: it goes on with examples of its own."""
    return text.replace("\r\n", "\n").strip().split("\n\n")[0].strip()


def _shot(subject: str, paragraph: str) -> Shot:
    return Shot({"paragraph_generation_prompt": f"Write a paragraph about {subject}."}, paragraph)


SHOTS = (
    _shot(
        "the gas that makes up most of the air",
        "Nitrogen makes up about 78 per cent of the air, far more than oxygen, which follows with 21 per cent. It "
        "has no colour, taste or smell, and it takes part in few reactions at ordinary temperatures. Daniel "
        "Rutherford described it in 1772. Plants need it to grow, but most can use it only after bacteria or "
        "lightning have bound it.",
    ),
    _shot(
        "the composer of the opera Carmen",
        "Carmen was composed by Georges Bizet, who was born in Paris in 1838. The opera tells of a soldier, Don "
        "José, who is ruined by his love for a free-spirited woman in Seville. Its first performance in 1875 at "
        "the Opéra-Comique was received coolly. Bizet died three months later and never learned that it would "
        "become one of the most performed operas of all.",
    ),
    _shot(
        "the river on which Budapest stands",
        "Budapest stands on the Danube, which separates hilly Buda on the west bank from flat Pest on the east. "
        "Several bridges cross the river within the city; the first permanent one was the Széchenyi Chain Bridge "
        "of 1849. The Danube rises in the Black Forest and reaches the Black Sea after about 2,850 kilometres.",
    ),
    _shot(
        "the organ of the body that makes insulin",
        "Insulin is made by the pancreas, a gland that lies behind the stomach. Beta cells in its islets of "
        "Langerhans release the hormone when the sugar in the blood rises, which lets muscles and fat take it up. "
        "Where these cells are destroyed, diabetes of type 1 follows. Frederick Banting and Charles Best extracted "
        "insulin in 1921.",
    ),
    _shot(
        "the year in which the Berlin Wall was opened",
        "The Berlin Wall was opened in 1989, on the evening of 9 November, after a spokesman had announced new "
        "rules for travel and added that they took effect at once. Crowds gathered at the crossings until the "
        "guards let them through. The wall had divided the city since August 1961. Germany was reunited less than "
        "a year later.",
    ),
    _shot(
        "the sport in which the Davis Cup is won",
        "The Davis Cup is won in tennis, by national teams of men. Dwight Davis, a student at Harvard, had the "
        "trophy made in 1900 for a match between the United States and Great Britain, which the Americans won. "
        "Over a hundred nations have entered since. The United States and Australia have won it most often.",
    ),
    _shot(
        "the author of the novel Frankenstein",
        "Frankenstein was written by Mary Shelley, who began it at the age of eighteen during a wet summer by Lake "
        "Geneva. Lord Byron had proposed that each of his guests write a ghost story. The novel was published "
        "without her name in London in 1818. It tells of a young scientist who gives life to a creature and then "
        "abandons it.",
    ),
    _shot(
        "the metal that is liquid at room temperature",
        "Mercury is the metal that is liquid at room temperature; it freezes only at about minus 39 degrees "
        "Celsius. Its symbol, Hg, comes from a Greek word for liquid silver. It was long used in thermometers and "
        "barometers, as it expands evenly with heat and is very dense. Since its vapour is poisonous, other "
        "substances have replaced it there.",
    ),
)

_SHOWN = "\n\n".join(
    f"Request: {shot.fields['paragraph_generation_prompt']}\nParagraph: {shot.reply}" for shot in SHOTS
)
PROMPT = Prompt(
    "Each request below is followed by a paragraph of three to five sentences in the manner of an encyclopedia: plain, "
    f"informative and to the point.\n\n{_SHOWN}\n\nRequest: {{paragraph_generation_prompt}}\nParagraph:",
    lambda reply, fields: first_paragraph(reply),
    shots=SHOTS,
)
