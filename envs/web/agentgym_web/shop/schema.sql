CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT UNIQUE, department TEXT, brand TEXT, price INTEGER, stock INTEGER, weight INTEGER,
  warranty INTEGER, colour TEXT, about TEXT, active INTEGER);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, email TEXT, phone TEXT, password TEXT, newsletter INTEGER, admin INTEGER);
CREATE TABLE addresses (id INTEGER PRIMARY KEY, customer INTEGER, label TEXT, street TEXT, city TEXT, postcode TEXT, main INTEGER);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, placed TEXT, status TEXT, address TEXT, delivery TEXT, coupon TEXT, note TEXT,
  total INTEGER, tracking TEXT);
CREATE TABLE lines (id INTEGER PRIMARY KEY, orders INTEGER, product INTEGER, quantity INTEGER, price INTEGER);
CREATE TABLE returns (id INTEGER PRIMARY KEY, orders INTEGER, product INTEGER, quantity INTEGER, reason TEXT);
CREATE TABLE reviews (id INTEGER PRIMARY KEY, product INTEGER, customer INTEGER, stars INTEGER, title TEXT, body TEXT, hidden INTEGER);
CREATE TABLE wishes (id INTEGER PRIMARY KEY, customer INTEGER, product INTEGER);
CREATE TABLE cart (id INTEGER PRIMARY KEY, customer INTEGER, product INTEGER, quantity INTEGER);
CREATE TABLE coupons (id INTEGER PRIMARY KEY, code TEXT, percent INTEGER);
CREATE TABLE threads (id INTEGER PRIMARY KEY, board TEXT, customer INTEGER, title TEXT, pinned INTEGER, locked INTEGER);
CREATE TABLE posts (id INTEGER PRIMARY KEY, threads INTEGER, customer INTEGER, body TEXT);
CREATE TABLE votes (id INTEGER PRIMARY KEY, posts INTEGER, customer INTEGER);
CREATE TABLE sessions (token TEXT PRIMARY KEY, customer INTEGER);
CREATE INDEX by_product ON reviews (product);
CREATE INDEX by_thread ON posts (threads);
