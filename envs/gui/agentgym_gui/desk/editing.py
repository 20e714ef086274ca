"""Templates about the text editor."""

from agentgym_gui.desk.drafts import Bench, Draft, done, menu, template

OPEN = "/home/agent/"


@template("editor")
def append_line(b: Bench) -> Draft:
    lines, new = b.lines(b.randrange(3, 7)), b.lines(1)[0]
    text = "\n".join(lines) + "\n"
    way = done([["key", "ctrl+End"], ["type", new], ["key", "ctrl+s"]])
    return Draft(f'Add the line "{new}" at the end of list.txt, and save it.', way, {"list.txt": text}, [["mousepad", "list.txt"]], {"list.txt": text + new})


@template("editor")
def line_numbers(b: Bench) -> Draft:
    text = "\n".join(b.lines(8))
    way = done([["click", "menu", "View"], ["click", "menuitem", "Line Numbers"]])
    setting = {"org/xfce/mousepad/preferences/view/show-line-numbers": "true"}
    return Draft("Make the text editor show line numbers.", way, {"list.txt": text}, [["mousepad", "list.txt"]], settings=setting)
