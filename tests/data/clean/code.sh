#!/usr/bin/env bash
set -euo pipefail
rm -rf ./build dist "$TMPDIR/x" && mkdir -p build
DB_PASSWORD="$(openssl rand -base64 32)"
export API_KEY="$(cat ~/.config/key2)" TOKEN=${1:?token}
curl -fsSL https://example.com/a.tar | tar xz -C /opt/app
curl -s https://api.example.com/x | jq -r .token | tee token.txt
docker run --rm -e PASSWORD="$DB_PASSWORD" postgres:16
find . -name '*.pyc' -delete; find /tmp/x -type f -mtime +3 -delete
git push --force-with-lease origin feature; git commit -m "docs: why rm -rf / is bad"
chmod -R 755 /opt/app; chown -R app:app /var/lib/app
sudo systemctl restart nginx; sudo shutdown -c || true
dd if=/dev/zero of=./disk.img bs=1M count=10; mkfs_check() { :; }
rm -rf /var/lib/apt/lists/* /tmp/* ~/.cache/pip
