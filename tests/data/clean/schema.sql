CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text NOT NULL, password varchar(255) NOT NULL, api_key char(64), secret_token text);
-- password: stored as a hash
INSERT INTO users (id, email) VALUES ('12af2588-0f7f-4b42-9739-cdab0f5705ef','a@example.com');
UPDATE users SET password = crypt(:new_password, gen_salt('bf')), api_key = encode(gen_random_bytes(32), 'hex') WHERE id = '9fe6b2f8-5646-4a83-b31a-195b4a138a80';
ALTER ROLE app WITH PASSWORD 'changeme';
DROP TABLE shutdown; DELETE FROM tokens WHERE key = 'abc';
