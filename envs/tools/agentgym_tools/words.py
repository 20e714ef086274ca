"""The words that rows are made of."""

FIRST = ("Ada Alan Amir Anna Ben Cara Chen Dana Dean Ebba Elif Emma Eric Fay Finn Gita Hana Hugo Ines Ivan Jane Jon Kai Kira Lars "
         "Lea Leo Lina Luca Mara Max Mia Mona Nadia Nils Noor Olga Omar Oscar Paul Petra Rosa Rui Sam Sara Sven Tara Theo Uma Vera "
         "Wim Yara Yusuf Zoe").split()  # fmt: skip
LAST = ("Abbott Acker Berg Blum Brandt Cole Costa Dietz Diaz Dunn Eklund Falk Fox Frost Gale Gray Haas Hale Hill Holm Hunt Ito Jensen "
        "Kane Khan Klein Kruse Lane Lang Lopez Lund Marsh Mori Moss Nagy Noble North Okoro Olsen Park Perez Price Quinn Reed Rossi Roth "
        "Sato Shaw Silva Stone Tan Vance Vogel Wade West Wolf Young").split()  # fmt: skip
TEAMS = ("sales", "support", "finance", "legal", "design", "research")
CITIES = ("Oslo", "Bern", "Lima", "Rome", "Kyoto", "Cairo", "Quito", "Delhi", "Turin", "Porto")
DAYS = ("mon", "tue", "wed", "thu", "fri")
ROOMS = ("red", "blue", "green", "amber", "white")
FOLDERS = ("drafts", "reports", "plans", "archive")
TICKET_STATUS = ("open", "waiting", "closed")
PRIORITIES = ("low", "normal", "high")
ORDER_STATUS = ("open", "packed", "shipped", "cancelled")
PAYMENT_STATUS = ("paid", "due", "refunded")
ITEMS = ("lamp", "desk", "chair", "shelf", "clock", "kettle", "mug", "rug", "fan", "vase")
ADJECTIVES = ("broken", "late", "lost", "new", "old", "quick", "quiet", "urgent", "weekly", "yearly", "empty", "final", "joint", "loud", "short", "spare")
NOUNS = (
    "printer",
    "invoice",
    "budget",
    "badge",
    "laptop",
    "window",
    "contract",
    "server",
    "review",
    "parcel",
    "heater",
    "router",
    "survey",
    "door",
    "phone",
    "screen",
    "plan",
    "audit",
    "cable",
    "ladder",
)
RULES = {
    "R1": "a closed ticket is never reopened",
    "R2": "a shipped order is never cancelled",
    "R3": "only a paid payment is refunded",
    "R4": "a file in archive is never changed or deleted",
    "R5": "phone numbers of the legal team are not given out",
    "R6": "nothing is booked on fri",
}
