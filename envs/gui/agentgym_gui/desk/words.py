"""Words for the tasks of the desk."""

FIRST = (
    "Ada Ben Clara David Elif Finn Greta Hugo Ines Jonas Karla Leon Mara Nils Olga Pavel Quinn Rosa Sami Tilda Udo Vera Wim Xenia Yara Zoe Amos Bela Cora Dario"
).split()
LAST = (
    "Abel Brandt Castro Duval Ebner Falk Garcia Hoffmann Ivanov Jansen Keller Lopez Meyer Novak Okafor Peters Quast Rossi Sato Tanaka Ulrich Vogel Weber Young Zeller"
).split()
CITIES = "Aachen Bergen Cadiz Dublin Essen Faro Ghent Haarlem Izmir Jena Kiel Lyon Malmo Nantes Oslo Porto Riga Split Turin Utrecht Vienna Warsaw York Zurich".split()
THINGS = (
    "anchor basket candle drawer engine folder guitar hammer island jacket kettle ladder mirror needle orange pencil quiver ribbon saddle ticket umbrella violin "
    "window yogurt zipper barrel carpet dynamo emblem funnel garden helmet insect jigsaw lantern magnet napkin oyster pillow rocket shovel tunnel velvet walnut"
).split()
