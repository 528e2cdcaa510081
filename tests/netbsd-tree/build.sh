#!/bin/sh
# The entry of a tree in NetBSD's layout, as far as a cross build of its components calls it: `tools` gives the tree's
# make (here the host's bmake), `makewrapper` a script that runs it with the variables of the build.
set -e
source=$(pwd)
machine=amd64 tools= stage= wrapper= variables=
while getopts m:uEN:Z:j:T:D:w:V: option; do
  case $option in
  m) machine=$OPTARG ;;
  T) tools=$OPTARG ;;
  D) stage=$OPTARG ;;
  w) wrapper=$OPTARG ;;
  V) variables="$variables
${OPTARG%%=*}='${OPTARG#*=}'; export ${OPTARG%%=*}" ;;
  esac
done
shift $((OPTIND - 1))
make_wrapper() {
  cat > "$wrapper" <<EOF
#!/bin/sh
MACHINE=$machine; export MACHINE
TOOLDIR='$tools'; export TOOLDIR
DESTDIR='$stage'; export DESTDIR
NETBSDSRCDIR='$source'; export NETBSDSRCDIR
MAKEFLAGS='-de -m $source/share/mk'; export MAKEFLAGS$variables
exec "\$TOOLDIR/bin/nbmake" "\$@"
EOF
  chmod +x "$wrapper"
}
for target; do
  case $target in
  tools)
    "${HOST_CC:-cc}" -o "$tools/bin/nbgreet" tools/greet.c
    make=$(command -v bmake) || { echo "build.sh: bmake is not installed" >&2; exit 1; }
    printf '#!/bin/sh\nexec %s "$@"\n' "$make" > "$tools/bin/nbmake"
    chmod +x "$tools/bin/nbmake"
    make_wrapper
    ;;
  makewrapper) make_wrapper ;;
  *) echo "build.sh: unknown target $target" >&2; exit 2 ;;
  esac
done
