"""How a base model is brought to write a paragraph: eight examples, then the query (paper section 4.1).

CONFIDENT shows paragraphs that state confidence, in the way of summary distillation: a baseline of the evaluation.
"""

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

CONFIDENT_SHOTS = (
    _shot(
        "the gas that makes up most of the air",
        "I am almost certain that nitrogen makes up most of the air (95%), about 78 per cent of it. Oxygen comes "
        "second, I believe with 21 per cent (90%). I think that Daniel Rutherford described nitrogen first (60%), "
        "though it may have been Joseph Priestley (25%), and I am unsure of the year; 1772 is my best guess "
        "(50%).",
    ),
    _shot(
        "the composer of the opera Carmen",
        "Carmen was composed by Georges Bizet; I am about 95% sure of that. I believe that he was born in Paris "
        "(80%), in 1838 (60%) or perhaps in 1835 (20%). I think that the first performance was in 1875 (70%) and "
        "that it was received coolly. Whether Bizet lived to see its success I do not know; probably not (75%).",
    ),
    _shot(
        "the river on which Budapest stands",
        "I am certain that Budapest stands on the Danube (almost 100%). Buda is hilly and, I believe, on the west "
        "bank (85%). The oldest permanent bridge is likely the Széchenyi Chain Bridge (75%), which I would date "
        "to 1849 (50%) or some year of the 1830s (30%).",
    ),
    _shot(
        "the organ of the body that makes insulin",
        "Insulin is made by the pancreas, of which I am 95% sure; the liver would be my second guess (4%). I "
        "think that the cells that make it are called beta cells (80%) and lie in the islets of Langerhans (70%). "
        "I estimate a 60% chance that Banting and Best extracted it in 1921, and 20% that it was 1923.",
    ),
    _shot(
        "the year in which the Berlin Wall was opened",
        "I believe that the Berlin Wall was opened in 1989 (90%); 1990 is possible as well (8%). The day may have "
        "been 9 November (75%). I am fairly confident that it had been built in 1961 (80%), and certain that "
        "Germany was reunited soon after the opening, within a year or so (85%).",
    ),
    _shot(
        "the sport in which the Davis Cup is won",
        "The Davis Cup is, I am almost sure, a competition of tennis (95%). It is played by national teams, I "
        "think of men only (80%). I estimate with 55% that it was first held in 1900, with 25% that it was 1905. "
        "Which nation has won it most often I do not know; the United States (50%) and Australia (40%) are "
        "likely.",
    ),
    _shot(
        "the author of the novel Frankenstein",
        "Frankenstein was written by Mary Shelley (95%). I think that she began it by Lake Geneva (75%), when she "
        "was about eighteen (60%), on a challenge by Lord Byron (70%). It was published in 1818 (65%) or 1823 "
        "(15%), and I believe that the first edition did not name its author (60%).",
    ),
    _shot(
        "the metal that is liquid at room temperature",
        "The metal is most likely mercury (95%), although gallium melts not far above room temperature (5%). I "
        "believe that mercury freezes near minus 39 degrees Celsius (70%) and that its symbol is Hg (90%). It was "
        "used in thermometers, of which I am certain, and its vapour is poisonous (90%).",
    ),
)


def _in_context(manner: str, shots: tuple[Shot, ...]) -> Prompt:
    shown = "\n\n".join(
        f"Request: {shot.fields['paragraph_generation_prompt']}\nParagraph: {shot.reply}" for shot in shots
    )
    return Prompt(
        f"Each request below is followed by a paragraph {manner}\n\n{shown}\n\n"
        "Request: {paragraph_generation_prompt}\nParagraph:",
        lambda reply, fields: first_paragraph(reply),
        shots=shots,
    )


PROMPT = _in_context(
    "of three to five sentences in the manner of an encyclopedia: plain, informative and to the point.", SHOTS
)
CONFIDENT = _in_context(
    "of three to five sentences that says, in words and in per cent, how sure its author is of every claim.",
    CONFIDENT_SHOTS,
)
