# A long script: pipes, redirection, subshells, functions, here-documents, traps, background jobs.
# usage: long.sh EMPTY-FOLDER
set -u
cd "$1"
say() { printf '%s: %s\n' "$1" "$2"; }

i=0
while [ $i -lt 200 ]; do
    echo "line $i of the file" >> numbers
    i=$((i + 1))
done
say lines "$(wc -l < numbers)"
say words "$(cat numbers | tr ' ' '\n' | grep -c line)"
say sorted "$(sort -r numbers | head -n 3 | tr '\n' ',')"
say sum "$(awk '{ total += $2 } END { print total }' numbers)"
say sed "$(sed -n 's/line \(19[0-9]\) .*/\1/p' numbers | tr '\n' ' ')"
say hash "$(sha256sum numbers)"

mkdir -p tree/a/b tree/c
for name in one two three; do echo "$name" > tree/a/$name; cp tree/a/$name tree/c/; done
ln -s ../a/one tree/c/link
ln tree/a/two tree/a/b/hard
say find "$(find tree | sort | tr '\n' ' ')"
say link "$(cat tree/c/link)"
say links "$(stat -c %h tree/a/two)"
mv tree/a/three tree/a/b/
chmod 640 tree/a/b/three
say mode "$(stat -c %a tree/a/b/three)"
tar -cf tree.tar tree && rm -r tree && tar -xf tree.tar
say tar "$(find tree -type f | wc -l)"
gzip -c numbers | gunzip | cmp - numbers && say gzip same

(cd tree && pwd) > where
say subshell "$(basename "$(cat where)")"
{ echo to-stdout; echo to-stderr >&2; } > both 2>&1
say both "$(tr '\n' ' ' < both)"
cat > here <<END
a here-document with $i
END
say here "$(cat here)"

sleep 0.2 &
first=$!
sleep 0.1 &
wait $first
say waited $?
false || say status $?
(exit 37)
say status $?
trap 'say trapped TERM' TERM
kill -TERM $$
sh -c 'kill -KILL $$' 2> /dev/null
say killed $?
yes | head -n 5000 | wc -l
say broken-pipe $?
mkfifo queue
(for n in 1 2 3; do echo "message $n"; done > queue) &
while read -r message; do say fifo "$message"; done < queue
wait
seq 1 1000 | while read -r n; do echo $((n * n)); done | tail -n 1
factorial() { if [ "$1" -le 1 ]; then echo 1; else echo $(($1 * $(factorial $(($1 - 1))))); fi; }
say factorial "$(factorial 10)"
echo a:b:c | (IFS=: read -r x y z; say split "$z$y$x")
case $(uname -s) in Linux) say system Linux ;; *) say system other ;; esac
test -r /proc/self/stat && say proc there
test -c /dev/null && say null there
dd if=/dev/zero bs=4096 count=100 2> /dev/null | wc -c
rm -rf numbers tree tree.tar where both here queue
say left "$(ls | grep -c numbers)"
exit 3
