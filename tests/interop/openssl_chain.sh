#!/bin/sh
# Makes with OpenSSL alone what FISCO BCOS' build_chain.sh makes for one node and one application: the
# secp256k1 chain of the node, and the RSA pair of version 1 of the channel.
# Usage: openssl_chain.sh DIR
set -eu
mkdir -p "$1/conf/channel_cert" "$1/sdk" "$1/sdk-ec"
cd "$1"
printf '[req]\ndistinguished_name=dn\n[dn]\n' >empty.cnf
printf 'basicConstraints=CA:TRUE\n' >agency.ext
printf 'basicConstraints=CA:FALSE\nkeyUsage=nonRepudiation,digitalSignature,keyEncipherment\n' >leaf.ext
ec_key() { openssl ecparam -name secp256k1 -genkey -noout 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
request() { openssl req -new -sha256 -config empty.cnf -key "$1" -subj "$2" -out request.csr; }
sign() { openssl x509 -req -sha256 -days 30 -in request.csr "$@" 2>/dev/null; }

ec_key ca.key
request ca.key /CN=chain/O=fisco-bcos/OU=chain
sign -signkey ca.key -out ca.crt
ec_key agency.key
request agency.key /CN=agency/O=fisco-bcos/OU=agency
sign -CA ca.crt -CAkey ca.key -CAcreateserial -extfile agency.ext -out agency.crt
leaf() {
    ec_key "$1.key"
    request "$1.key" "/CN=$2/O=fisco-bcos/OU=$3"
    sign -CA agency.crt -CAkey agency.key -CAcreateserial -extfile leaf.ext -out leaf.crt
    cat leaf.crt agency.crt ca.crt >"$1.crt"
}
leaf conf/node node0 node
leaf sdk-ec/sdk sdk sdk
cp ca.crt conf/ca.crt
cp ca.crt sdk-ec/ca.crt

openssl genrsa -out channel.key 2048 2>/dev/null
request channel.key /CN=agency/O=fisco-bcos/OU=chain
sign -signkey channel.key -out channel.crt
rsa_leaf() {
    openssl genrsa 2048 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$1.key"
    request "$1.key" /CN=FISCO-BCOS/O=fisco-bcos/OU=agency
    sign -CA channel.crt -CAkey channel.key -CAcreateserial -out "$1.crt"
}
rsa_leaf conf/channel_cert/node
rsa_leaf sdk/sdk
cp channel.crt conf/channel_cert/ca.crt
cp channel.crt sdk/ca.crt
